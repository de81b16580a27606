"""One address, fetched within bounds from a server that does its worst."""

import gzip
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.errors import UsageError
from millcert.provenance.url_address import is_public
from millcert.provenance.url_list import place_of, url_fault
from millcert.provenance.url_transport import Answer, Reach, Transport, UrlLimits
from millcert.testing.https_server import LocalHttps

BODY = b"what the curator saw " * 500
FAST = UrlLimits(max_bytes=1 << 20, max_seconds=20, connect_seconds=5, stall_seconds=5, retries=2, backoff_seconds=0)


class Kept:
    """A sink in memory."""

    def __init__(self) -> None:
        self.data = b""
        self.starts = 0

    def restart(self) -> None:
        self.data = b""
        self.starts += 1

    def write(self, chunk: bytes) -> bool:
        self.data += chunk
        return True


@pytest.fixture(scope="module")
def running() -> Iterator[LocalHttps]:
    with LocalHttps() as server:
        yield server


@pytest.fixture
def server(running: LocalHttps) -> LocalHttps:
    running.routes.clear()
    running.requests.clear()
    return running


def loopback(_host: str, _port: int) -> list[str]:
    return ["127.0.0.1"]


def fetched(server: LocalHttps, url: str, limits: UrlLimits = FAST, **reach: object) -> tuple[Answer, Kept]:
    sink = Kept()
    where = replace(Reach(server.authorities, unsafe_private=True, resolver=loopback), **reach)  # type: ignore[arg-type] # tests name its fields
    with Transport(limits, where) as transport:
        return transport.get(url, sink, max_bytes=limits.max_bytes, seconds=60), sink


def raw(data: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    """Answer with these bytes, whatever protocol they are, and hang up."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(data)
        handler.wfile.flush()
        handler.close_connection = True

    return answer


def test_a_body_is_taken_with_what_can_be_seen_of_its_server(server: LocalHttps) -> None:
    url = server.serve("/a", BODY)
    answer, sink = fetched(server, url)
    assert (answer.outcome, answer.status, sink.data) == ("served", 200, BODY)
    assert (answer.host, answer.addresses, answer.issuer) == ("localhost", ("127.0.0.1",), "CN=first authority")
    assert len(answer.key_sha256) == 64


def test_a_request_says_nothing_about_us(server: LocalHttps, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither proxies nor .netrc nor certificate files nor key logs of the environment have a part in it."""
    (tmp_path / ".netrc").write_text("machine localhost login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    log = tmp_path / "keys.log"
    for name, value in {
        "HOME": str(tmp_path),
        "NETRC": str(tmp_path / ".netrc"),
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "ALL_PROXY": "http://127.0.0.1:1",
        "SSLKEYLOGFILE": str(log),
        "SSL_CERT_FILE": str(tmp_path / "none.pem"),
    }.items():
        monkeypatch.setenv(name, value)
    answer, _ = fetched(server, server.serve("/a", BODY))
    assert answer.outcome == "served"
    (_, headers) = server.requests[0]
    assert set(headers) == {"Host", "Accept", "Accept-Encoding", "User-Agent"}
    assert (headers["Accept-Encoding"], headers["User-Agent"]) == ("identity", "millcert")
    assert not log.exists()


def test_the_authorities_of_the_environment_do_not_count(server: LocalHttps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(server.authorities))
    answer, _ = fetched(server, server.serve("/a", BODY), replace(FAST, retries=0), authorities=None)
    assert (answer.outcome, answer.reason) == ("unreachable", "tls")


def test_a_certificate_for_another_name_is_refused(server: LocalHttps) -> None:
    server.serve("/a", BODY)
    answer, sink = fetched(server, server.url("/a", "elsewhere.example"), replace(FAST, retries=0))
    assert (answer.outcome, answer.reason, sink.data) == ("unreachable", "tls", b"")
    assert server.requests == []


def test_a_file_that_holds_no_authority_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "absent.pem"):
        with pytest.raises(UsageError, match="certificate authorities"):
            Transport(FAST, Reach(tmp_path / name))


# Where an address may lead


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1", "::1", "fe80::1",
     "fc00::1", "::ffff:8.8.8.8", "2002:7f00:1::", "64:ff9b::7f00:1", "fe80::1%eth0", "2001:db8::1", "nonsense"],
)  # fmt: skip
def test_a_name_that_leads_to_no_public_address_is_never_connected_to(server: LocalHttps, address: str) -> None:
    """Also where only one of several addresses is not public."""
    answer, _ = fetched(server, server.url("/a"), unsafe_private=False, resolver=lambda *_: ["8.8.8.8", address])
    assert (answer.outcome, answer.reason) == ("refused", "private_address")
    assert server.requests == []


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::808:808"])
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


def test_the_connection_goes_to_the_address_that_was_looked_at(server: LocalHttps) -> None:
    """A name that leads elsewhere at the second question (DNS rebinding) is asked for once only."""
    answers = iter([["127.0.0.1"]])
    answer, _ = fetched(server, server.serve("/a", BODY), resolver=lambda *_: next(answers))
    assert answer.outcome == "served"


def test_every_address_of_a_host_is_tried(server: LocalHttps) -> None:
    server.serve("/a", BODY)
    with socket.socket() as closed:
        closed.bind(("127.0.0.2", server.port))  # taken, and nobody listens
        answer, _ = fetched(server, server.url("/a"), resolver=lambda *_: ["127.0.0.2", "127.0.0.1"])
        assert (answer.outcome, answer.addresses) == ("served", ("127.0.0.1", "127.0.0.2"))


@pytest.mark.parametrize(
    ("code", "outcome", "reason"),
    [(socket.EAI_NONAME, "gone", "no_such_host"), (socket.EAI_AGAIN, "unreachable", "name_service")],
)
def test_no_such_host_is_gone_and_a_silent_name_service_is_unreachable(
    server: LocalHttps, code: int, outcome: str, reason: str
) -> None:
    def failing(_host: str, _port: int) -> list[str]:
        raise socket.gaierror(code, "said the test")

    answer, _ = fetched(server, "https://absent.example/a", resolver=failing)
    assert (answer.outcome, answer.reason) == (outcome, reason)


def test_nobody_listening_is_unreachable(server: LocalHttps) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        answer, _ = fetched(server, f"https://localhost:{port}/a")
    assert (answer.outcome, answer.reason) == ("unreachable", "connection")


# Redirects


def redirect(server: LocalHttps, path: str, location: str) -> str:
    return server.serve(path, b"", status=302, headers={"Location": location})


def test_a_redirect_on_the_same_host_is_followed(server: LocalHttps) -> None:
    server.serve("/b?x=1", BODY)
    answer, sink = fetched(server, redirect(server, "/a", "b?x=1"))
    assert (answer.outcome, sink.data) == ("served", BODY)


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://localhost/a", "redirect"),
        ("ftp://localhost/a", "redirect"),
        ("file:///etc/passwd", "redirect"),
        ("", "redirect"),
        ("https://user:secret@localhost/a", "redirect"),
        ("https://data.example/a", "redirect_host"),
        ("https://localhost:1/a", "redirect_host"),
        ("//data.example/a", "redirect_host"),
    ],
)
def test_a_redirect_to_another_scheme_or_host_is_not_followed(server: LocalHttps, location: str, reason: str) -> None:
    answer, sink = fetched(server, redirect(server, "/a", location))
    assert (answer.outcome, answer.reason, sink.data) == ("refused", reason, b"")
    assert len(server.requests) == 1


def test_a_redirect_to_a_host_that_was_named_is_followed_and_looked_at_as_well(server: LocalHttps) -> None:
    server.serve("/b", BODY)
    url = redirect(server, "/a", server.url("/b", "mirror.example"))
    answer, _ = fetched(server, url, redirect_hosts=frozenset({"mirror.example"}))
    assert (answer.outcome, answer.host) == ("served", "mirror.example")

    def split(host: str, _port: int) -> list[str]:
        return ["10.0.0.1"] if host == "mirror.example" else ["8.8.8.8"]

    with Transport(FAST, Reach(resolver=split)) as transport:
        refused = transport.get("https://mirror.example/b", Kept(), max_bytes=1, seconds=5)
    assert refused.reason == "private_address"


def test_redirects_in_a_loop_end(server: LocalHttps) -> None:
    answer, _ = fetched(server, redirect(server, "/a", "/a"))
    assert (answer.outcome, answer.reason) == ("refused", "redirects")
    assert len(server.requests) == FAST.redirects + 1


# Bodies


def test_a_compressed_body_is_taken_as_it_is_served(server: LocalHttps) -> None:
    """So nothing expands, and a digest over the plain bytes does not fit."""
    bomb = gzip.compress(b"\0" * (1 << 22))
    url = server.serve("/a", bomb, headers={"Content-Encoding": "gzip"})
    answer, sink = fetched(server, url)
    assert (answer.outcome, answer.encoding, sink.data) == ("served", "gzip", bomb)


def test_a_body_that_says_it_is_too_large_is_not_read(server: LocalHttps) -> None:
    answer, sink = fetched(server, server.serve("/a", BODY), replace(FAST, max_bytes=len(BODY) - 1))
    assert (answer.outcome, answer.reason, sink.data) == ("refused", "too_large", b"")
    assert fetched(server, server.url("/a"), replace(FAST, max_bytes=len(BODY)))[0].outcome == "served"


def test_an_endless_body_is_cut_at_the_bound(server: LocalHttps) -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        handler.close_connection = True
        while not server.stopped.is_set():
            handler.wfile.write(b"x" * 65536)

    server.routes["/a"] = endless
    answer, sink = fetched(server, server.url("/a"))
    assert (answer.outcome, answer.reason) == ("refused", "too_large")
    assert len(sink.data) <= FAST.max_bytes


@pytest.mark.parametrize(
    "start",
    [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"],
    ids=["no answer", "in a header", "in the body"],
)
def test_a_server_that_drips_is_cut_off_in_time(server: LocalHttps, start: bytes) -> None:
    """Every byte comes within the bound between two pieces; only the bound on the whole ends it."""

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(start)
        while not server.stopped.wait(0.02):
            handler.wfile.write(b"x" if start else b"")

    server.routes["/a"] = drip
    answer, _ = fetched(server, server.url("/a"), replace(FAST, max_seconds=0.3))
    assert (answer.outcome, answer.reason) == ("unreachable", "too_slow")


def test_a_server_that_stalls_is_unreachable(server: LocalHttps) -> None:
    def stall(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        handler.close_connection = True
        server.stopped.wait()

    server.routes["/a"] = stall
    answer, _ = fetched(server, server.url("/a"), replace(FAST, stall_seconds=0.1, retries=1))
    assert (answer.outcome, answer.reason) == ("unreachable", "broken_off")
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"not HTTP at all",
        b"",
    ],
    ids=["length", "chunked", "bad chunk", "no HTTP", "nothing"],
)
def test_an_answer_that_breaks_off_is_never_a_body(server: LocalHttps, data: bytes) -> None:
    server.routes["/a"] = raw(data)
    answer, _ = fetched(server, server.url("/a"))
    assert answer.outcome == "unreachable"
    assert len(server.requests) == 1 + FAST.retries


def test_a_content_length_that_is_too_small_cuts_the_body_and_spoils_no_next_answer(server: LocalHttps) -> None:
    server.serve("/b", b"good")
    server.routes["/a"] = lambda handler: handler.wfile.write(
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nsomething more"
    )  # type: ignore[assignment] # what it returns is not used
    sink = Kept()
    with Transport(FAST, Reach(server.authorities, unsafe_private=True, resolver=loopback)) as transport:
        assert transport.get(server.url("/a"), sink, max_bytes=99, seconds=9).outcome == "served"
        assert sink.data == b"some"
        assert transport.get(server.url("/b"), sink, max_bytes=99, seconds=9).outcome == "served"
        assert sink.data == b"good"


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(404, "gone"), (410, "gone"), (403, "gone"), (500, "unreachable"), (503, "unreachable"), (429, "unreachable"),
     (204, "refused"), (206, "refused"), (300, "refused"), (304, "refused")],
)  # fmt: skip
def test_a_status_without_a_body_has_one_meaning(server: LocalHttps, status: int, outcome: str) -> None:
    answer, _ = fetched(server, server.serve("/a", b"", status=status))
    assert (answer.outcome, answer.reason, answer.status) == (outcome, f"http_{status}", status)
    assert len(server.requests) == (1 + FAST.retries if outcome == "unreachable" else 1)


def test_a_second_attempt_starts_the_body_anew(server: LocalHttps) -> None:
    calls: list[int] = []

    def flaky(handler: BaseHTTPRequestHandler) -> None:
        calls.append(1)
        raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + (b"0123" if len(calls) == 1 else b"0123456789"))(handler)

    server.routes["/a"] = flaky
    answer, sink = fetched(server, server.url("/a"))
    assert (answer.outcome, sink.data, sink.starts) == ("served", b"0123456789", 2)


@pytest.mark.parametrize("after", ["0", "soon", "99999999"])
def test_a_server_cannot_make_us_wait_beyond_our_bound(server: LocalHttps, after: str) -> None:
    url = server.serve("/a", b"", status=503, headers={"Retry-After": after})
    answer, _ = fetched(server, url, replace(FAST, max_seconds=10))
    assert (answer.outcome, answer.reason) == ("unreachable", "http_503")
    assert len(server.requests) == (1 if after == "99999999" else 1 + FAST.retries)


def test_a_sink_that_wants_no_more_ends_the_fetch(server: LocalHttps) -> None:
    class Full(Kept):
        def write(self, chunk: bytes) -> bool:
            return False

    url = server.serve("/a", BODY)
    with Transport(FAST, Reach(server.authorities, unsafe_private=True, resolver=loopback)) as transport:
        answer = transport.get(url, Full(), max_bytes=1 << 20, seconds=9)
    assert (answer.outcome, answer.reason) == ("refused", "total_bytes")


def test_a_connection_is_used_again(server: LocalHttps) -> None:
    ports: set[int] = set()

    def note(handler: BaseHTTPRequestHandler) -> None:
        ports.add(handler.client_address[1])
        handler.send_response(200)
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        handler.wfile.write(b"ok")

    server.routes["/a"] = note
    with Transport(FAST, Reach(server.authorities, unsafe_private=True, resolver=loopback)) as transport:
        answers = [transport.get(server.url("/a"), Kept(), max_bytes=9, seconds=9) for _ in range(3)]
    assert len(ports) == 1
    assert len({answer.key_sha256 for answer in answers}) == 1


# Addresses


@pytest.mark.parametrize(
    "url",
    ["", "http://a.example/", "HTTP://a.example/", "ftp://a.example/", "a.example/x", "https://", "https:///x",
     "https://a.example/ x", "https://a.example/\n", "https://a.example\\@b.example/", "https://u:p@a.example/",
     "https://u@a.example/", "https://a.example:0/", "https://a.example:99999/", "https://ä.example/",
     "https://a.example:x/", "https://[::1/", "https://a.example/" + "x" * 9000, "https://-a/", "https://@a.example/"],
)  # fmt: skip
def test_an_address_that_is_not_plain_https_is_refused(url: str) -> None:
    assert url_fault(url)


def test_an_address_has_one_host_one_port_and_one_target() -> None:
    assert place_of("https://A.example:443/x%2fy/z?q=1#part") == ("a.example", 443, "/x%2Fy/z?q=1")
    assert place_of("HTTPS://A.example")[:2] == ("a.example", 443)
    assert place_of("https://[2606:4700::1111]:8443/x") == ("2606:4700::1111", 8443, "/x")


@given(st.text(alphabet="htps:/@[]#?.%\\ab1", max_size=40))
def test_two_parsers_never_disagree_on_what_is_accepted(tail: str) -> None:
    """Rule 2: a parser that sees another host would send us where nobody looked."""
    url = f"https://{tail}"
    if not url_fault(url):
        place = place_of(url)
        assert place.host == urlsplit(url).hostname
        assert "@" not in urlsplit(url).netloc


@pytest.mark.parametrize(
    ("head", "outcome", "reason"),
    [
        (b"200 OK\r\nContent-Length: " + b"9" * 5000, "refused", "too_large"),
        (b"503 later\r\nContent-Length: 0\r\nRetry-After: " + b"9" * 5000, "unreachable", "http_503"),
        (
            b"503 later\r\nContent-Length: 0\r\nRetry-After: Wed, 21 Oct 99999 07:28:00 GMT",
            "unreachable",
            "http_503",
        ),
        (b"302 there\r\nContent-Length: 0\r\nLocation: https://[", "refused", "redirect"),
        (b"302 there\r\nContent-Length: 0\r\nLocation: //[::1", "refused", "redirect"),
    ],
)
def test_a_number_date_or_place_that_no_parser_takes_ends_one_address_only(
    server: LocalHttps, head: bytes, outcome: str, reason: str
) -> None:
    server.routes["/a"] = raw(b"HTTP/1.1 " + head + b"\r\n\r\n")
    answer, _ = fetched(server, server.url("/a"))
    assert (answer.outcome, answer.reason) == (outcome, reason)


def test_whatever_a_library_raises_on_an_answer_is_the_answer_of_that_address(
    server: LocalHttps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: object) -> str:
        raise KeyError("charset")

    monkeypatch.setattr("millcert.provenance.url_transport._observed", stumble)
    answer, _ = fetched(server, server.serve("/a", BODY))
    assert (answer.outcome, answer.reason) == ("refused", "answer")
    assert "KeyError" in answer.detail


def test_a_name_with_a_thousand_addresses_is_asked_at_few(server: LocalHttps) -> None:
    """What a name service says goes into the result file, whose lines are bounded."""
    many = [f"198.51.100.{last}" for last in range(1, 255)] * 4
    answer, _ = fetched(server, server.serve("/a", BODY), resolver=lambda *_: ["127.0.0.1", *many])
    assert answer.outcome == "served"
    assert len(answer.addresses) <= 64
