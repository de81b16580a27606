"""A witness over real HTTP: it cosigns what only grows, whoever asks, however often, and whatever dies in between."""

import http.client
import itertools
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.errors import ConsistencyError, LedgerError, SignatureError, StoreError, UsageError
from millcert.provenance.checkpoint import Checkpoint, sign_checkpoint, verify_checkpoint, vkey_of
from millcert.provenance.cosignature import (
    ED25519,
    ML_DSA_44,
    cosign,
    merge_signatures,
    require_witnesses,
    verify_cosignatures,
    witness_key_of,
)
from millcert.provenance.last_seen import LastSeen
from millcert.provenance.ledger import Entry, Ledger, open_ledger, verify_tlog_proof
from millcert.provenance.merkle import EMPTY_ROOT, consistency_proof, leaf_hash, root_of
from millcert.provenance.tlog_proof import prove_under
from millcert.provenance.witness import Witness, WitnessState
from millcert.provenance.witness_client import MAX_ANSWER_BYTES, WitnessRefusedError, WitnessSite, ask_witness
from millcert.provenance.witness_folder import create_witness, open_witness, read_witness_vkeys
from millcert.provenance.witness_request import (
    MAX_REQUEST_BYTES,
    format_request,
    parse_known_size,
    parse_request,
)
from millcert.provenance.witness_server import WitnessServer
from millcert.provenance.witnessing import (
    Witnessing,
    cosigned_checkpoint,
    cosigned_path,
    kept_checkpoint,
)

ORIGIN = "example.com/l"
LOG_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LOGS = {ORIGIN: [vkey_of(ORIGIN, LOG_KEY)]}
HASHES = [leaf_hash(bytes([number])) for number in range(64)]
FORK = [*HASHES[:3], *(leaf_hash(b"fork" + bytes([number])) for number in range(61))]
NOW = 1_795_403_935


def note_of(
    size: int, hashes: list[bytes] = HASHES, *, key: Ed25519PrivateKey = LOG_KEY, origin: str = ORIGIN
) -> bytes:
    return sign_checkpoint(Checkpoint(origin, size, root_of(hashes[:size])), key)


def proof_of(old: int, new: int, hashes: list[bytes] = HASHES) -> tuple[bytes, ...]:
    return consistency_proof(old, new, lambda level, index: root_of(hashes[index << level : (index + 1) << level]))


def request_of(old: int, new: int, hashes: list[bytes] = HASHES) -> bytes:
    return format_request(old, proof_of(old, new, hashes) if 0 < old < new else (), note_of(new, hashes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    create_witness(tmp_path / "w", "w.example/1", [ED25519, ML_DSA_44])
    return tmp_path / "w"


@pytest.fixture
def witness(folder: Path) -> Witness:
    return open_witness(folder, LOGS, clock=lambda: NOW)


class Served:
    """A witness that listens on loopback, and what it logged."""

    def __init__(self, witness: Witness) -> None:
        self.lines: list[str] = []
        self.server = WitnessServer(witness, ("127.0.0.1", 0), log=self.lines.append)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def post(self, body: bytes, path: str = "/add-checkpoint") -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", int(self.server.server_address[1]), timeout=20)
        try:
            connection.request("POST", path, body)
            response = connection.getresponse()
            return response.status, response.headers["Content-Type"], response.read()
        finally:
            connection.close()

    def raw(self, data: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", int(self.server.server_address[1])), timeout=20) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture
def serve() -> Iterator[Callable[[Witness], Served]]:
    running: list[Served] = []

    def start(witness: Witness) -> Served:
        running.append(Served(witness))
        return running[-1]

    yield start
    for served in running:
        served.stop()


# --- the protocol --------------------------------------------------------------------------------------------------


def test_a_log_that_grows_is_cosigned_with_every_key_at_each_step(
    witness: Witness, folder: Path, serve: Callable[[Witness], Served]
) -> None:
    served = serve(witness)
    keys = read_witness_vkeys(folder / "witness.vkey")

    for old, new in [(0, 1), (1, 1), (1, 5), (5, 32), (32, 64), (64, 64)]:
        status, kind, body = served.post(request_of(old, new))
        assert (status, kind) == (200, "text/plain; charset=utf-8")
        found = verify_cosignatures(merge_signatures(note_of(new), body.decode().splitlines(keepends=True)), keys)
        assert [(one.algorithm, one.time) for one in found] == [(ED25519, NOW), (ML_DSA_44, NOW)]


def other_log() -> bytes:
    return note_of(5, origin="example.com/stranger")


@pytest.mark.parametrize(
    ("body", "status", "answer"),
    [
        (request_of(5, 9), 200, None),
        (request_of(0, 9), 409, b"5\n"),
        (request_of(4, 9), 409, b"5\n"),
        (format_request(9, (), note_of(9)), 409, b"5\n"),
        (format_request(6, (), note_of(5)), 400, None),
        (format_request(4, (), note_of(4)), 409, b"5\n"),
        (format_request(5, (), note_of(9)), 422, None),
        (format_request(5, proof_of(5, 9)[:-1], note_of(9)), 422, None),
        (format_request(5, (*proof_of(5, 9), bytes(32)), note_of(9)), 422, None),
        (format_request(5, proof_of(5, 9), note_of(9, FORK)), 422, None),
        (format_request(5, proof_of(5, 9, FORK), note_of(9, FORK)), 422, None),
        (format_request(5, (), note_of(5, FORK)), 409, None),
        (format_request(5, (bytes(32),), note_of(5)), 422, None),
        (format_request(0, (), other_log()), 404, None),
        (format_request(5, (), note_of(5, key=Ed25519PrivateKey.generate())), 403, None),
        (format_request(5, (), note_of(5).replace(b"\n5\n", b"\n6\n")), 403, None),
        (b"", 400, None),
        (b"old 5\n\n", 400, None),
        (b"old 05\n\n" + note_of(5), 400, None),
        (b"old -1\n\n" + note_of(5), 400, None),
        (b"old 5\nAAAA\n\n" + note_of(5), 400, None),
        (b"old 5\n\xff\n\n" + note_of(5), 400, None),
        (b"old 5\n\nnot a note\n", 400, None),
        (b"old 9223372036854775808\n\n" + note_of(5), 400, None),
        (format_request(5, [bytes(32)] * 64, note_of(9)), 400, None),
    ],
)
def test_each_answer_is_the_one_of_the_specification(
    witness: Witness, body: bytes, status: int, answer: bytes | None
) -> None:
    """C2SP tlog-witness: 404 unknown log, 403 no signature, 400 old size, 409 conflict with the size, 422 proof."""
    assert witness.add_checkpoint(request_of(0, 5)).status == 200

    found = witness.add_checkpoint(body)

    assert found.status == status
    if answer is not None:
        assert (found.body, found.content_type) == (answer, "text/x.tlog.size")
    (kept,) = witness.state.seen()
    assert kept.checkpoint.size == (9 if status == 200 else 5)


def test_the_empty_log_and_the_first_checkpoint_need_no_proof(witness: Witness) -> None:
    empty = sign_checkpoint(Checkpoint(ORIGIN, 0, EMPTY_ROOT), LOG_KEY)

    assert witness.add_checkpoint(format_request(0, (bytes(32),), note_of(5))).status == 422
    assert witness.add_checkpoint(format_request(0, (), empty)).status == 200
    assert witness.add_checkpoint(format_request(0, (), empty)).status == 200
    assert witness.add_checkpoint(request_of(0, 5)).status == 200


def test_a_checkpoint_with_extension_lines_gets_ed25519_alone(tmp_path: Path, witness: Witness) -> None:
    extended = sign_checkpoint(Checkpoint(ORIGIN, 1, HASHES[0], ("more",)), LOG_KEY)
    create_witness(tmp_path / "q", "q.example", [ML_DSA_44])
    quantum = open_witness(tmp_path / "q", LOGS)

    assert witness.add_checkpoint(format_request(0, (), extended)).body.count(b"\n") == 1
    assert quantum.add_checkpoint(format_request(0, (), extended)).status == 400
    assert quantum.state.seen() == []


def test_two_roots_at_one_size_are_kept_as_proof_and_never_cosigned(witness: Witness) -> None:
    witness.add_checkpoint(request_of(0, 5))

    for old in (5, 5, 0):
        assert witness.add_checkpoint(format_request(old, (), note_of(5, FORK))).status == 409

    (conflict,) = witness.state.conflicts()
    both = [verify_checkpoint(note, LOGS[ORIGIN]) for note in (conflict.kept, conflict.note)]
    assert (both[0].size, both[1].size) == (5, 5)
    assert both[0].root != both[1].root


def test_proofs_of_a_lying_log_are_bounded(witness: Witness) -> None:
    witness.add_checkpoint(request_of(0, 1))

    for number in range(20):
        lie = sign_checkpoint(Checkpoint(ORIGIN, 1, bytes([number] * 32)), LOG_KEY)
        assert witness.add_checkpoint(format_request(1, (), lie)).status == 409

    assert len(witness.state.conflicts()) == 16


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_in_one_way_or_refused(data: bytes) -> None:
    try:
        parsed = parse_request(b"old 5\n" + data)
    except LedgerError:
        return
    assert format_request(parsed.old_size, parsed.proof, parsed.note) == b"old 5\n" + data


def test_each_flipped_byte_of_a_request_is_refused_and_changes_nothing(witness: Witness) -> None:
    witness.add_checkpoint(request_of(0, 5))
    body = request_of(5, 9)

    for place in range(len(body)):
        answer = witness.add_checkpoint(body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :])
        assert answer.status in {400, 403, 404, 409, 422}, place

    assert witness.state.seen()[0].checkpoint.size == 5


@pytest.mark.parametrize(("body", "size"), [(b"7\n", 7), (b"0\n", 0), (b"07\n", None), (b"7", None), (b"-1\n", None)])
def test_the_size_in_a_conflict_has_one_form(body: bytes, size: int | None) -> None:
    assert parse_known_size(body) == size
    assert parse_known_size(b"9223372036854775808\n") is None


# --- crashes and crowds --------------------------------------------------------------------------------------------


class Crash(BaseException):
    """The process dies here."""


def test_if_it_dies_before_the_state_is_kept_nothing_was_cosigned(
    witness: Witness, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    witness.add_checkpoint(request_of(0, 5))
    monkeypatch.setattr("millcert.provenance.witness.cosign", lambda *_: pytest.fail("cosigned too early"))
    with monkeypatch.context() as patched:
        patched.setattr("millcert.provenance.witness._keep", dying_after("millcert.provenance.witness._keep"))
        with pytest.raises(Crash):
            witness.add_checkpoint(request_of(5, 9))

    assert WitnessState(folder / "state.db").seen()[0].checkpoint.size == 5


def dying_after(name: str) -> Callable[..., object]:
    from millcert.provenance import witness as module

    real = getattr(module, name.rpartition(".")[2])

    def dying(*arguments: object) -> object:
        real(*arguments)
        raise Crash

    return dying


def test_if_it_dies_before_the_answer_the_state_is_kept_and_the_client_gets_one_at_the_next_try(
    witness: Witness, monkeypatch: pytest.MonkeyPatch, folder: Path, serve: Callable[[Witness], Served]
) -> None:
    """Rule 2: the state is on the disk before the cosignature leaves."""
    witness.add_checkpoint(request_of(0, 5))
    kept: list[int] = []

    def dying(*_: object) -> str:
        kept.append(WitnessState(folder / "state.db").seen()[0].checkpoint.size)
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr("millcert.provenance.witness.cosign", dying)
        with pytest.raises(Crash):
            witness.add_checkpoint(request_of(5, 9))
    assert kept == [9]

    again = open_witness(folder, LOGS)  # the next process
    assert again.add_checkpoint(request_of(5, 8)).body == b"9\n"  # it never goes back
    site = WitnessSite(tuple(read_witness_vkeys(folder / "witness.vkey")), serve(again).server.url)
    assert len(ask_witness(site, note_of(9), proof_of)) == 2


def test_many_requests_at_once_never_roll_back_and_never_fork(
    witness: Witness, serve: Callable[[Witness], Served]
) -> None:
    """Rule 3: of requests that start from one size one wins; who loses is told the size."""
    served = serve(witness)
    assert served.post(request_of(0, 1))[0] == 200

    def climb(hashes: list[bytes]) -> list[tuple[int, bytes]]:
        done: list[tuple[int, bytes]] = []
        old = 1
        for new in range(2, 26):
            if new < old:
                continue
            status, kind, body = served.post(request_of(old, new, hashes))
            if status == 200:
                done.append((new, root_of(hashes[:new])))
                old = new
            elif status == 409 and kind == "text/x.tlog.size":
                old = int(body)
            else:
                assert status in {409, 422}  # the other history won
        return done

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(climb, [HASHES, FORK] * 4))

    roots: dict[int, set[bytes]] = {}
    for size, root in itertools.chain.from_iterable(answers):
        roots.setdefault(size, set()).add(root)
    assert all(len(found) == 1 for found in roots.values())
    largest = max(roots)
    assert witness.state.seen()[0].checkpoint.size == largest
    assert len({hashes[3] for hashes in (HASHES, FORK) if root_of(hashes[:largest]) in roots[largest]}) == 1


def test_a_state_that_cannot_be_written_gives_500_and_no_cosignature(
    witness: Witness, folder: Path, serve: Callable[[Witness], Served]
) -> None:
    served = serve(witness)
    (folder / "state.db").write_bytes(b"no database at all, by any means")
    for name in ("state.db-wal", "state.db-shm"):
        (folder / name).unlink(missing_ok=True)

    status, _, body = served.post(request_of(0, 5))

    assert status == 500
    assert b"nothing was cosigned" in body
    with pytest.raises(StoreError, match="could not be read or written"):
        witness.add_checkpoint(request_of(0, 5))


# --- the server against strangers ----------------------------------------------------------------------------------


def test_other_paths_methods_and_bodies_are_refused(witness: Witness, serve: Callable[[Witness], Served]) -> None:
    served = serve(witness)
    head = b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\n"

    assert served.post(b"x", "/add-checkpoint/")[0] == 404
    assert served.raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 501")
    assert served.raw(head + b"\r\n").startswith(b"HTTP/1.1 411")
    assert served.raw(head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n").startswith(b"HTTP/1.1 411")
    assert served.raw(head + b"Content-Length: -5\r\n\r\n").startswith(b"HTTP/1.1 411")
    too_long = str(MAX_REQUEST_BYTES + 1).encode()
    assert served.raw(head + b"Content-Length: " + too_long + b"\r\n\r\n").startswith(b"HTTP/1.1 413")
    assert served.raw(head + b"Content-Length: 9\r\n\r\nold").startswith(b"HTTP/1.1 408")
    served.raw(b"POST \xff\xfe\x1b[2J HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
    assert served.post(request_of(0, 5))[0] == 200
    assert all(line.isprintable() and line.isascii() for line in served.lines)


def test_one_connection_can_be_kept_for_many_requests(witness: Witness, serve: Callable[[Witness], Served]) -> None:
    served = serve(witness)
    connection = http.client.HTTPConnection("127.0.0.1", int(served.server.server_address[1]), timeout=20)

    statuses = []
    for old, new in [(0, 3), (3, 7), (3, 7), (7, 9)]:
        connection.request("POST", "/add-checkpoint", request_of(old, new))
        response = connection.getresponse()
        statuses.append((response.status, bool(response.read())))
    connection.close()

    assert statuses == [(200, True), (200, True), (409, True), (200, True)]


def test_more_connections_than_there_is_room_for_are_closed_and_the_others_served(
    witness: Witness, serve: Callable[[Witness], Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millcert.provenance.witness_server.MAX_CONNECTIONS", 1)
    served = serve(witness)
    port = int(served.server.server_address[1])

    first = socket.create_connection(("127.0.0.1", port), timeout=20)
    first.sendall(b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 1\r\n")
    second = socket.create_connection(("127.0.0.1", port), timeout=20)
    assert second.recv(1) == b""
    second.close()
    first.sendall(b"\r\nx")
    assert first.recv(12) == b"HTTP/1.1 400"
    first.close()


def test_a_port_that_is_taken_is_a_store_error(witness: Witness, serve: Callable[[Witness], Served]) -> None:
    port = int(serve(witness).server.server_address[1])

    with pytest.raises(StoreError, match="cannot listen"):
        WitnessServer(witness, ("127.0.0.1", port), log=print)
    with pytest.raises(StoreError, match="cannot listen"):
        WitnessServer(witness, ("127.0.0.1", 70_000), log=print)


# --- the client against witnesses that fail or lie -----------------------------------------------------------------


class Scripted:
    """An HTTP server that answers as told, request by request."""

    def __init__(self, answers: list[tuple[int, bytes]]) -> None:
        script = itertools.chain(answers, itertools.repeat(answers[-1]))
        self.bodies: list[bytes] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                status, body = next(script)
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "http://127.0.0.1:9/")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


W_KEY = Ed25519PrivateKey.from_private_bytes(b"w" * 32)
TEXT = note_of(9).decode().rpartition("\n\n")[0] + "\n"
GOOD = cosign(TEXT, "w", W_KEY, NOW).encode()
STRANGE = cosign(TEXT, "stranger", Ed25519PrivateKey.generate(), NOW).encode()


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([(200, b"")], "no cosignature"),
        ([(200, STRANGE)], "by a key that is pinned"),
        ([(200, GOOD[:-9] + b"AAAAAAA=\n")], "no valid cosignature"),
        ([(200, b"\xff")], "no valid cosignature"),
        ([(200, b"hello\n")], "no valid cosignature"),
        ([(200, GOOD + b"x" * MAX_ANSWER_BYTES)], "more than"),
        ([(500, b"broken")], "answered 500: broken"),
        ([(302, b"")], "answered 302"),
        ([(409, b"nonsense\n")], "answered 409"),
        ([(409, b"12\n")], "larger checkpoint already, of 12"),
        ([(409, b"9\n"), (409, b"9\n")], "another root at 9"),
        ([(409, b"3\n"), (409, b"3\n")], "another root at 3"),
        ([(409, b"3\n"), (409, b"4\n"), (409, b"5\n"), (409, b"6\n")], "moved at every try"),
        ([(409, b"3\n"), (422, b"bad proof\n")], "answered 422: bad proof"),
    ],
)
def test_a_witness_that_fails_or_lies_gives_a_reason_and_no_line(answers: list[tuple[int, bytes]], reason: str) -> None:
    scripted = Scripted(answers)
    try:
        site = WitnessSite((witness_key_of("w", W_KEY),), f"http://127.0.0.1:{scripted.server.server_address[1]}")
        with pytest.raises(WitnessRefusedError, match=reason):
            ask_witness(site, note_of(9), proof_of)
    finally:
        scripted.stop()


def test_lines_of_strangers_are_left_out_and_the_proof_starts_at_the_witness_s_size() -> None:
    scripted = Scripted([(409, b"3\n"), (200, STRANGE + GOOD)])
    try:
        site = WitnessSite((witness_key_of("w", W_KEY),), f"http://127.0.0.1:{scripted.server.server_address[1]}/")
        assert ask_witness(site, note_of(9), proof_of) == [GOOD.decode()]
    finally:
        scripted.stop()
    assert [parse_request(body).old_size for body in scripted.bodies] == [0, 3]
    assert parse_request(scripted.bodies[1]).proof == proof_of(3, 9)


@pytest.mark.parametrize(
    "url", ["", "witness.example", "ftp://w.example", "file:///etc/passwd", "http://", "http://w?x"]
)
def test_a_url_that_no_witness_has_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="http or https"):
        WitnessSite((witness_key_of("w", W_KEY),), url)
    with pytest.raises(UsageError, match="one name"):
        WitnessSite((witness_key_of("w", W_KEY), witness_key_of("v", W_KEY)), "http://w.example")


# --- the ledger and its witnesses ----------------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path / "state" / "ledger.db", origin=ORIGIN, key=LOG_KEY, create=True) as ledger:
        ledger.append([Entry("verdict", f"set-{number}", "2026-11-23T02:38:55Z", {}) for number in range(5)])
        yield ledger


def sites_of(tmp_path: Path, serve: Callable[[Witness], Served], count: int) -> tuple[WitnessSite, ...]:
    sites = []
    for number in range(count):
        folder = tmp_path / f"w{number}"
        create_witness(folder, f"w.example/{number}", [ED25519])
        served = serve(open_witness(folder, LOGS))
        sites.append(WitnessSite(tuple(read_witness_vkeys(folder / "witness.vkey")), served.server.url))
    return tuple(sites)


def nobody(name: str = "nobody") -> WitnessSite:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return WitnessSite((witness_key_of(name, Ed25519PrivateKey.generate()),), f"http://127.0.0.1:{port}")


def test_a_ledger_s_newest_checkpoint_is_cosigned_kept_and_proved_under(
    tmp_path: Path, ledger: Ledger, serve: Callable[[Witness], Served]
) -> None:
    witnessing = Witnessing((*sites_of(tmp_path, serve, 2), nobody()), 2)
    kept = cosigned_path(tmp_path / "state" / "ledger.db")

    note = cosigned_checkpoint(ledger, witnessing, kept)

    assert {one.witness for one in require_witnesses(note, witnessing.rule)} == {"w.example/0", "w.example/1"}
    assert kept.read_bytes() == note == kept_checkpoint(ledger, kept, at_least=5)
    assert kept_checkpoint(ledger, kept, at_least=6) is None
    leaf = ledger.get(3).entry.leaf()
    proof = prove_under(ledger, 3, note)
    assert verify_tlog_proof(proof, leaf, LOGS[ORIGIN]).size == 5
    assert proof.endswith(note)


def test_what_is_cosigned_already_is_not_asked_for_again(
    tmp_path: Path, ledger: Ledger, serve: Callable[[Witness], Served]
) -> None:
    sites = sites_of(tmp_path, serve, 1)
    kept = cosigned_path(tmp_path / "state" / "ledger.db")
    note = cosigned_checkpoint(ledger, Witnessing(sites, 1), kept)

    unreachable = Witnessing((WitnessSite(sites[0].keys, nobody().url),), 1)

    assert cosigned_checkpoint(ledger, unreachable, kept) == note
    ledger.append([Entry("verdict", "more", "2026-11-23T02:38:55Z", {})])
    with pytest.raises(StoreError, match="cannot be reached"):
        cosigned_checkpoint(ledger, unreachable, kept)


def test_too_few_witnesses_are_a_store_error_that_names_each_reason(
    tmp_path: Path, ledger: Ledger, serve: Callable[[Witness], Served]
) -> None:
    kept = cosigned_path(tmp_path / "state" / "ledger.db")
    witnessing = Witnessing((*sites_of(tmp_path, serve, 1), nobody()), 2)

    with pytest.raises(StoreError, match="nobody cannot be reached") as caught:
        cosigned_checkpoint(ledger, witnessing, kept)

    assert caught.value.exit_code == 5
    assert not kept.exists()


def test_a_forked_and_a_rolled_back_ledger_are_told_by_the_witness(
    tmp_path: Path, ledger: Ledger, serve: Callable[[Witness], Served]
) -> None:
    (site,) = sites_of(tmp_path, serve, 1)
    cosigned_checkpoint(ledger, Witnessing((site,), 1), tmp_path / "kept")

    for number, count in enumerate((5, 6, 3)):
        with open_ledger(tmp_path / f"f{number}" / "l.db", origin=ORIGIN, key=LOG_KEY, create=True) as fork:
            fork.append([Entry("verdict", f"fork-{place}", "2026-11-23T02:38:55Z", {}) for place in range(count)])
            with pytest.raises(ConsistencyError, match="another history"):
                cosigned_checkpoint(fork, Witnessing((site,), 1), tmp_path / f"kept-{number}")


def test_an_older_cosigned_checkpoint_never_replaces_a_newer_one(
    tmp_path: Path, ledger: Ledger, serve: Callable[[Witness], Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = sites_of(tmp_path, serve, 1)
    kept = tmp_path / "kept"
    old = ledger.checkpoint()
    ledger.append([Entry("verdict", "more", "2026-11-23T02:38:55Z", {})])
    new = cosigned_checkpoint(ledger, Witnessing(sites, 1), tmp_path / "elsewhere")
    other = Ed25519PrivateKey.generate()
    older = merge_signatures(old, [cosign(old.decode().rpartition("\n\n")[0] + "\n", "x", other, 1)])

    for note in (new, older):
        LastSeen(kept).supersede(note)

    assert kept.read_bytes() == new
    LastSeen(kept).advance(ledger.checkpoint())
    assert kept.read_bytes() == new
    LastSeen(kept).supersede(ledger.checkpoint())
    assert kept.read_bytes() == ledger.checkpoint()
    kept.write_bytes(note_of(5, key=other))
    with pytest.raises(SignatureError):
        kept_checkpoint(ledger, kept, at_least=0)


# --- the folder ----------------------------------------------------------------------------------------------------


def test_a_witness_s_folder_is_made_once_and_read_whole(tmp_path: Path, folder: Path) -> None:
    assert (folder / "ml-dsa-44.key").stat().st_mode & 0o077 == 0
    with pytest.raises(UsageError, match="already"):
        create_witness(folder, "w.example/1", [ED25519])
    (folder / "witness.vkey").rename(folder / "moved")
    with pytest.raises(UsageError, match="interrupted"):
        create_witness(folder, "w.example/1", [ED25519])
    with pytest.raises(UsageError, match="no witness's keys"):
        open_witness(folder, LOGS)
    (folder / "witness.vkey").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not text"):
        open_witness(folder, LOGS)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be written"):
        create_witness(tmp_path / "file" / "w", "w", [ED25519])


@pytest.mark.parametrize("name", ["ed25519.key", "ml-dsa-44.key"])
def test_a_private_key_that_is_missing_another_one_or_open_to_others_is_refused(
    tmp_path: Path, folder: Path, name: str
) -> None:
    create_witness(tmp_path / "other", "w.example/1", [ED25519, ML_DSA_44])
    good = (folder / name).read_bytes()

    (folder / name).chmod(0o644)
    with pytest.raises(UsageError, match="by others"):
        open_witness(folder, LOGS)
    (folder / name).chmod(0o600)
    (folder / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(UsageError, match="put together from two"):
        open_witness(folder, LOGS)
    wrong = "ed25519.key" if name == "ml-dsa-44.key" else "ml-dsa-44.key"
    for data in ((folder / wrong).read_bytes(), b"no key"):
        (folder / name).write_bytes(data)
        with pytest.raises(UsageError, match="private key in PEM"):
            open_witness(folder, LOGS)
    (folder / name).unlink()
    with pytest.raises(UsageError, match="no private key"):
        open_witness(folder, LOGS)
    assert good


def test_the_state_is_durable_by_its_own_settings(witness: Witness, folder: Path) -> None:
    with witness.state.transaction() as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    with sqlite3.connect(folder / "state.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
