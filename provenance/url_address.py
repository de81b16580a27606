"""Which machine an address may lead to: only one that anybody on the internet could reach as well.

A list of addresses is somebody else's wish what our machine should connect to. A name is resolved once, every address
that it gives is looked at, and the connection goes to one that was looked at, so no second answer of the name service
can lead it elsewhere.
"""

import ipaddress
import socket
from collections.abc import Callable
from typing import TypeAlias

#: Gives the addresses of a host. Raises OSError as `socket.getaddrinfo` does.
Resolver: TypeAlias = Callable[[str, int], list[str]]

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")


def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of a host, in the system's order, each once.

    Raises:
        OSError: the name service failed, or knows no such host.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_no_such_host(error: OSError) -> bool:
    """Say whether the name service answered that there is no such host, rather than not answering."""
    known = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}
    return isinstance(error, socket.gaierror) and error.errno in known


def is_public(address: str) -> bool:
    """Say whether an IP address is one of the public internet: no private, loopback, link-local or other special one.

    An IPv6 address that holds an IPv4 one is as public as that (NAT64, RFC 6052) or not at all (mapped, 6to4, Teredo).
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # also one with a zone: it is meant for one link
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)))
        if parsed not in _GLOBAL_UNICAST or parsed.sixtofour is not None or parsed.teredo is not None:
            return False
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved
