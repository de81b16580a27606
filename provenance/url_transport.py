"""One address, fetched over HTTPS within bounds, as bytes whose digest somebody signed.

Rules this module keeps:
  1. HTTPS with a verified certificate, always: also behind a redirect. No proxy, no credentials, no cookie, and nothing
     from the environment: not its proxies, not .netrc, not its certificate files, not its key log.
  2. A redirect stays at the same host and port, unless its host was named as one to follow.
  3. A host leads to public addresses only, and the connection goes to an address that was looked at.
  4. Bytes are taken as they are served: nothing is decompressed, so nothing expands.
  5. Size, time and attempts are bounded, and a server that sends a byte now and then is cut off in time.

urllib3 does the protocol: it is kept well, is in every lock already (sigstore stands on it), and unlike requests takes
nothing from the environment, follows nothing and decodes nothing unless told to. It waits between attempts, too.
"""

import hashlib
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urljoin

import urllib3
from urllib3.connection import HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, HTTPError, MaxRetryError, NewConnectionError, SSLError
from urllib3.util import Retry, Timeout

from millcert.errors import UsageError
from millcert.provenance.closing import Closing
from millcert.provenance.url_address import Resolver, is_no_such_host, is_public, resolve
from millcert.provenance.url_list import Place, place_of, url_fault

_CHUNK_BYTES = 256 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: What a server says when a later attempt may fare better (RFC 9110 section 15, RFC 6585 section 4).
_TRY_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
_USER_AGENT = "millcert"
_MAX_ADDRESSES = 64


@dataclass(frozen=True)
class UrlLimits:
    """Bounds on one address. Our choice, all of them; a list of larger files needs larger ones.

    max_bytes: of one body. max_seconds: for all attempts at one address. connect_seconds, stall_seconds: for a
    connection, and between two pieces of an answer. redirects, retries: how many. backoff_seconds: before the second
    attempt, doubled each time, never more than 30 s.
    """

    max_bytes: int = 4 << 30
    max_seconds: float = 600.0
    connect_seconds: float = 15.0
    stall_seconds: float = 30.0
    redirects: int = 5
    retries: int = 3
    backoff_seconds: float = 1.0


@dataclass(frozen=True)
class Reach:
    """Where a fetch may go.

    authorities: a PEM file of certificate authorities; None for those that certifi ships.
    redirect_hosts: hosts that a redirect may lead to besides the address's own.
    unsafe_private: whether private and loopback addresses may be connected to, on any port of this machine.
    """

    authorities: Path | None = None
    redirect_hosts: frozenset[str] = frozenset()
    unsafe_private: bool = False
    resolver: Resolver = field(default=resolve)


@dataclass(frozen=True)
class Answer:
    """What came of one address.

    outcome: "served": a whole body came; "gone": the server or the name service says that there is none; "refused": a
        rule or bound was broken; "unreachable": nobody can tell, a later attempt may.
    reason: stable code, "" where it was served. detail: one sentence.
    status: of the last HTTP answer; 0 where there was none. size_bytes: that were taken. encoding: Content-Encoding.
    host, addresses: of the server that answered last. key_sha256, issuer: of its certificate: SHA-256 of the public key
        (SubjectPublicKeyInfo), hex, and the issuer's name (RFC 4514).
    """

    outcome: str
    reason: str = ""
    detail: str = ""
    status: int = 0
    size_bytes: int = 0
    encoding: str = ""
    host: str = ""
    addresses: tuple[str, ...] = ()
    key_sha256: str = ""
    issuer: str = ""


class Sink(Protocol):
    """Takes a body. A second attempt starts it anew."""

    def restart(self) -> None:
        """Forget what was written."""
        ...

    def write(self, chunk: bytes) -> bool:
        """Take the next piece; False where no more is wanted."""
        ...


class _StopError(Exception):
    """An attempt ended without a body; `answer` says how, `response` is set where the server said to try later."""

    def __init__(self, answer: Answer, response: urllib3.BaseHTTPResponse | None = None) -> None:
        super().__init__(answer.detail)
        self.answer = answer
        self.response = response


class _Guard:
    """Cuts a connection off when its time is over, whatever it is waiting for."""

    def __init__(self, seconds: float) -> None:
        self.deadline = time.monotonic() + seconds
        self.certificate: bytes | None = None
        self.is_over = False
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self.cut)
        self._timer.daemon = True
        self._timer.start()

    def left(self) -> float:
        return max(self.deadline - time.monotonic(), 0.0)

    def watch(self, sock: socket.socket | None, certificate: bytes | None) -> None:
        with self._lock:
            self._socket, self.certificate = sock, certificate
            is_over = self.is_over
        if is_over:
            self.cut()

    def stop(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._socket = None

    def cut(self) -> None:
        with self._lock:
            self.is_over = True
            if self._socket is not None:
                try:
                    # Not the TLS socket's own method: that takes the TLS layer away under whoever is reading.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
                except OSError:
                    self._socket = None  # gone already


_ACTIVE = threading.local()


class _Connection(HTTPSConnection):
    """Shows its socket and the server's certificate to the guard of the thread that uses it."""

    _certificate: bytes | None = None

    def connect(self) -> None:
        super().connect()
        sock: Any = self.sock
        self._certificate = sock.getpeercert(binary_form=True)

    def request(self, *args: Any, **kwargs: Any) -> None:
        guard: _Guard = _ACTIVE.guard
        guard.watch(self.sock, self._certificate)
        super().request(*args, **kwargs)


class _Pool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _Connection


class Transport(Closing):
    """Fetches addresses; several threads may share one. Close it after use.

    Raises:
        UsageError: the file of authorities cannot be used.
    """

    def __init__(self, limits: UrlLimits, reach: Reach) -> None:
        self._limits = limits
        self._reach = reach
        self._context = _tls(reach.authorities)
        self._manager = urllib3.PoolManager(num_pools=64, maxsize=16, ssl_context=self._context)
        self._manager.pool_classes_by_scheme = {"https": _Pool}
        self._guards: set[_Guard] = set()

    def close(self) -> None:
        """Close all connections that are kept open."""
        self._manager.clear()

    def abort(self) -> None:
        """Cut off every fetch that runs, in other threads: whoever waits for them wants to stop."""
        for guard in list(self._guards):
            guard.cut()

    def get(self, url: str, sink: Sink, *, max_bytes: int, seconds: float) -> Answer:
        """Fetch one address into a sink; whatever happens is the answer.

        Args:
            url: one that `url_fault` takes.
            sink: takes the body of each attempt.
            max_bytes: of the body; the limits' own bound counts as well.
            seconds: left for all addresses; the limits' own bound for one counts as well.
        """
        retry = Retry(
            total=self._limits.retries,
            backoff_factor=self._limits.backoff_seconds,
            backoff_max=30,
            status_forcelist=_TRY_LATER,
            retry_after_max=30,
        )
        guard = _Guard(min(seconds, self._limits.max_seconds))
        _ACTIVE.guard = guard
        self._guards.add(guard)
        try:
            while True:
                try:
                    sink.restart()
                    return self._attempt(url, sink, min(max_bytes, self._limits.max_bytes), guard)
                except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # a library's
                    return Answer("refused", "answer", f"its answer cannot be read: {type(error).__name__}")
                except _StopError as stop:
                    if guard.is_over or not guard.left():
                        return replace(
                            stop.answer,
                            outcome="unreachable",
                            reason="too_slow",
                            detail="it took longer than the bound on one address",
                        )
                    if stop.answer.outcome != "unreachable":
                        return stop.answer
                    try:
                        retry = retry.increment("GET", url, error=stop)
                    except (MaxRetryError, _StopError):
                        return stop.answer
                    if guard.left() <= _pause(retry, stop.response):
                        return stop.answer
                    retry.sleep(stop.response)
        finally:
            guard.stop()
            self._guards.discard(guard)

    def _attempt(self, url: str, sink: Sink, max_bytes: int, guard: _Guard) -> Answer:
        """Return what was served, at the address or where its redirects lead."""
        first = place_of(url)
        for _ in range(self._limits.redirects + 1):
            place = place_of(url)
            addresses = self._addresses(place)
            response = self._open(place, addresses, guard)
            try:
                served = Answer("served", host=place.host, addresses=tuple(sorted(addresses)))
                answer = _observed(served, response, guard)
                if response.status not in _REDIRECTS:
                    return self._body(response, answer, sink, max_bytes, guard)
                url = self._followed(url, response.headers.get("Location", ""), first, answer)
            finally:
                # A connection whose body was not read to its end is of no use any more.
                response.close()
        raise _StopError(_refused(answer, "redirects", f"more than {self._limits.redirects} redirects"))

    def _addresses(self, place: Place) -> tuple[str, ...]:
        empty = Answer("unreachable", "name_service", host=place.host)
        try:
            found = self._reach.resolver(place.host, place.port)
        except (OSError, UnicodeError) as error:
            if isinstance(error, OSError) and is_no_such_host(error):
                gone = replace(empty, outcome="gone", reason="no_such_host", detail=f"there is no host {place.host}")
                raise _StopError(gone) from error
            raise _StopError(replace(empty, detail=f"the name service failed for {place.host}")) from error
        addresses = tuple(found)[:_MAX_ADDRESSES]  # no other is connected to
        wrong = [address for address in addresses if not is_public(address)]
        if wrong and not self._reach.unsafe_private:
            words = f"{place.host} leads to {wrong[0]}, which is no public address"
            raise _StopError(_refused(replace(empty, addresses=addresses), "private_address", words))
        return addresses

    def _open(self, place: Place, addresses: tuple[str, ...], guard: _Guard) -> urllib3.BaseHTTPResponse:
        """Return the answer of the first address that takes a connection; its body is not read."""
        port = "" if place.port == 443 else f":{place.port}"
        host = f"[{place.host}]" if ":" in place.host else place.host
        headers = {"Host": host + port, "Accept-Encoding": "identity", "User-Agent": _USER_AGENT, "Accept": "*/*"}
        failed = Answer("unreachable", "connection", f"{place.host} has no address", 0, host=place.host)
        for address in addresses:
            left = max(guard.left(), 0.001)
            pool = self._manager.connection_from_host(
                address,
                place.port,
                "https",
                {"server_hostname": place.host},  # the certificate must be for the name, not the number
            )
            timeout = Timeout(
                connect=min(self._limits.connect_seconds, left), read=min(self._limits.stall_seconds, left)
            )
            try:
                return pool.urlopen(
                    "GET",
                    place.target,
                    headers=headers,
                    retries=False,
                    redirect=False,
                    timeout=timeout,
                    preload_content=False,
                    decode_content=False,
                )
            except (HTTPError, OSError, ValueError) as error:
                failed = _failed(failed, error, place.host, addresses)
                if not isinstance(error, ConnectTimeoutError):  # or no connection at all
                    break
        raise _StopError(failed)

    def _followed(self, url: str, location: str, first: Place, answer: Answer) -> str:
        """Return where a redirect leads, if it may be followed (rule 2)."""
        try:
            target = urljoin(url, location)
        except ValueError:
            target = ""
        fault = "it names no place" if not location or not target else url_fault(target)
        if fault:
            raise _StopError(_refused(answer, "redirect", f"a redirect is not followed: {fault}"))
        place = place_of(target)
        if (place.host, place.port) != (first.host, first.port) and place.host not in self._reach.redirect_hosts:
            words = f"a redirect leads to another host, {place.host}:{place.port}"
            raise _StopError(_refused(answer, "redirect_host", words))
        return target

    def _body(
        self, response: urllib3.BaseHTTPResponse, answer: Answer, sink: Sink, max_bytes: int, guard: _Guard
    ) -> Answer:
        if response.status != 200:
            raise _StopError(_no_body(answer), response)
        taken = 0
        too_large = _refused(answer, "too_large", f"it serves more than {max_bytes} bytes")
        stated = response.headers.get("Content-Length", "")
        if stated.isascii() and stated.isdigit() and (len(stated) > 19 or int(stated) > max_bytes):
            raise _StopError(too_large)
        try:
            # One piece as it arrives: a larger read would wait for a server that drips.
            while chunk := response.read1(_CHUNK_BYTES):
                taken += len(chunk)
                if guard.is_over:
                    raise _StopError(replace(answer, outcome="unreachable", reason="too_slow"))
                if taken > max_bytes:
                    raise _StopError(replace(too_large, size_bytes=taken))
                if not sink.write(chunk):
                    raise _StopError(
                        _refused(answer, "total_bytes", "the bound on the bytes of all addresses is reached")
                    )
        except (HTTPError, OSError, ValueError) as error:
            words = f"the answer broke off after {taken} bytes: {type(error).__name__}"
            broken = replace(answer, outcome="unreachable", reason="broken_off", detail=words, size_bytes=taken)
            raise _StopError(broken) from error
        if guard.is_over:  # what was cut off looks like an end
            raise _StopError(replace(answer, outcome="unreachable", reason="too_slow"))
        response.release_conn()
        return replace(answer, size_bytes=taken)


def _pause(retry: Retry, response: urllib3.BaseHTTPResponse | None) -> float:
    asked = 0.0
    if response is not None:
        try:
            asked = retry.get_retry_after(response) or 0.0
        except (HTTPError, ValueError, OverflowError):
            response.headers.pop("Retry-After", None)
    return max(asked, retry.get_backoff_time())


def _tls(authorities: Path | None) -> ssl.SSLContext:
    # Made by hand: the ready-made contexts read SSL_CERT_FILE, SSL_CERT_DIR and SSLKEYLOGFILE.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    import certifi

    path = certifi.where() if authorities is None else str(authorities)
    try:
        context.load_verify_locations(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"{path} cannot be used as certificate authorities: {error.strerror or error}.", hint="Name a PEM file."
        ) from error
    return context


def _refused(answer: Answer, reason: str, detail: str) -> Answer:
    return replace(answer, outcome="refused", reason=reason, detail=detail)


def _no_body(answer: Answer) -> Answer:
    """Return what a status other than 200 means."""
    words = f"the server answered {answer.status}"
    reason = f"http_{answer.status}"
    if answer.status in _TRY_LATER or answer.status >= 500:
        return replace(answer, outcome="unreachable", reason=reason, detail=words)
    if 400 <= answer.status < 500:
        return replace(answer, outcome="gone", reason=reason, detail=words)
    return _refused(answer, reason, words)


def _failed(answer: Answer, error: Exception, host: str, addresses: tuple[str, ...]) -> Answer:
    text = f"{type(error).__name__}"
    reason = "connection"
    if isinstance(error, SSLError) or isinstance(error.__cause__, ssl.SSLError):
        reason, text = "tls", f"the server's certificate or its TLS is refused ({_short(error)})"
    elif isinstance(error, NewConnectionError):  # which counts as a timeout for its library
        text = "no connection"
    elif isinstance(error, (urllib3.exceptions.TimeoutError, TimeoutError)):
        reason, text = "timeout", "the server did not answer in time"
    return replace(answer, reason=reason, detail=f"{host}: {text}", addresses=addresses)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _observed(answer: Answer, response: urllib3.BaseHTTPResponse, guard: _Guard) -> Answer:
    """Add what can be seen of the server: its certificate's key and issuer."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    encoding = str(response.headers.get("Content-Encoding", ""))[:80]
    seen = replace(answer, status=response.status, encoding=encoding)
    if guard.certificate is None:
        return seen
    try:
        certificate = x509.load_der_x509_certificate(guard.certificate)
        key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        issuer = certificate.issuer.rfc4514_string()[:1000]
        return replace(seen, key_sha256=hashlib.sha256(key).hexdigest(), issuer=issuer)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):  # a kind that the library does not know
        return replace(seen, key_sha256=hashlib.sha256(guard.certificate).hexdigest())
