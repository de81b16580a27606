"""The network and the server fail in the middle of an append: on a real wire, by a real crash."""

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.errors import StoreError
from millcert.provenance import ledger_sql
from millcert.provenance.ledger import Entry, Ledger, open_ledger
from millcert.testing.private_postgres import PrivatePostgres

ORIGIN = "example.com/ledger"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WHEN = "2026-11-23T02:38:55Z"


def entry(number: int) -> Entry:
    return Entry("verdict", f"set-{number}", WHEN, {"number": number})


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.db"


@pytest.fixture
def schema(postgres_schema: Callable[[], str]) -> str:
    return postgres_schema()


def opened(state: Path, url: str) -> Ledger:
    return open_ledger(state, origin=ORIGIN, key=KEY, url=url, create=True)


def assert_whole_and_retried(state: Path, url: str, kept: int) -> None:
    """What the failed append of entries 1 to 3 left is all or nothing, and its retry completes it."""
    with opened(state, url) as healed:
        assert healed.verify().size == 1 + kept
        assert healed.append([entry(1), entry(2), entry(3)]).indexes == (1, 2, 3)
        assert healed.verify().size == 4


class Wire:
    """A socket between client and server that is cut when the client says a word.

    word: what the client must say. before: cut before the server hears it; else after the server's answer, which the
    client never hears. Nothing is cut before `armed` is set.
    """

    def __init__(self, server: PrivatePostgres, word: bytes, *, before: bool) -> None:
        self.folder = tempfile.mkdtemp(prefix="mc-wire-", dir="/tmp")
        self._server = str(server.folder / ".s.PGSQL.5432")
        self._word, self._before = word, before
        self.armed = threading.Event()
        self.was_cut = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self.folder}/.s.PGSQL.5432")
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()
        Path(self.folder, ".s.PGSQL.5432").unlink()
        Path(self.folder).rmdir()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                thread = threading.Thread(target=self._relay, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self._server)
            back = threading.Thread(target=self._answers, args=(server, client))
            back.start()
            with suppress(OSError):
                while data := client.recv(1 << 16):
                    if self.armed.is_set() and self._word in data:
                        self.was_cut.set()
                        if not self._before:
                            server.sendall(data)
                            self._answered.wait(30)
                        client.shutdown(socket.SHUT_RDWR)
                        break
                    server.sendall(data)
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            back.join()

    _answered: threading.Event = threading.Event()

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if self.was_cut.is_set():
                    self._answered.set()
                    return
                client.sendall(data)


@contextmanager
def wire(server: PrivatePostgres, word: bytes, *, before: bool) -> Iterator[Wire]:
    between = Wire(server, word, before=before)
    between._answered = threading.Event()
    try:
        yield between
    finally:
        between.close()


@pytest.mark.parametrize(
    ("word", "before", "kept"),
    [
        (b"pg_advisory_xact_lock", True, 0),
        (b".entries", True, 0),
        (b".entries", False, 0),
        (b".tiles", True, 0),
        (b".tiles", False, 0),
        (b".checkpoints", False, 0),
        (b"COMMIT\x00", True, 0),
        (b"COMMIT\x00", False, 3),
    ],
)
def test_a_connection_cut_at_any_statement_leaves_all_or_nothing(
    postgres: PrivatePostgres, schema: str, state: Path, word: bytes, before: bool, kept: int
) -> None:
    """Of a cut after COMMIT the client cannot know that it was kept: it is told to retry, which repeats nothing."""
    url = postgres.url_of(schema=schema)
    with opened(state, url) as ledger:
        ledger.append([entry(0)])
    with (
        wire(postgres, word, before=before) as between,
        opened(state, postgres.url_of(schema=schema, host=between.folder)) as cut,
    ):
        between.armed.set()
        with pytest.raises(StoreError) as caught:
            cut.append([entry(1), entry(2), entry(3)])
        assert between.was_cut.is_set()

    assert "retry is safe" in caught.value.hint
    assert_whole_and_retried(state, url, kept)


def crash_at(monkeypatch: pytest.MonkeyPatch, write: str, crash: Callable[[Any], None]) -> None:
    """Make a write of the store be followed by a crash of the server, once."""
    real = getattr(ledger_sql._SqlTransaction, write)

    def crashing(self: Any, *args: Any) -> None:
        real(self, *args)
        monkeypatch.setattr(ledger_sql._SqlTransaction, write, real)
        crash(self)

    monkeypatch.setattr(ledger_sql._SqlTransaction, write, crashing)


@pytest.mark.parametrize("write", ["insert_rows", "put_tile", "insert_checkpoint"])
def test_a_server_that_crashes_in_an_append_leaves_nothing_of_it(
    postgres: PrivatePostgres, schema: str, state: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """Immediate shutdown: all processes of the server end at once, and the next start recovers from its log."""
    url = postgres.url_of(schema=schema)
    with opened(state, url) as ledger:
        ledger.append([entry(0)])
        crash_at(monkeypatch, write, lambda _: postgres.stop(crash=True))

        with pytest.raises(StoreError):
            ledger.append([entry(1), entry(2), entry(3)])

    postgres.start_again()
    assert_whole_and_retried(state, url, 0)


def test_a_server_that_crashes_right_after_a_commit_has_kept_it(
    postgres: PrivatePostgres, schema: str, state: Path
) -> None:
    url = postgres.url_of(schema=schema)
    with opened(state, url) as ledger:
        ledger.append([entry(0)])
        acknowledged = ledger.append([entry(1), entry(2), entry(3)])
        postgres.stop(crash=True)
        postgres.start_again()

        assert ledger.append([entry(1), entry(2), entry(3)]) == acknowledged
        assert ledger.verify().size == 4


def test_a_server_process_killed_in_an_append_leaves_nothing_of_it(
    postgres: PrivatePostgres, schema: str, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of the process that serves us: the server ends all others, too, and recovers by itself."""

    def kill(transaction: Any) -> None:
        pid = transaction._connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        os.kill(int(pid), signal.SIGKILL)

    url = postgres.url_of(schema=schema)
    with opened(state, url) as ledger:
        ledger.append([entry(0)])
        crash_at(monkeypatch, "insert_checkpoint", kill)

        with pytest.raises(StoreError):
            ledger.append([entry(1), entry(2), entry(3)])

    wait_until_it_answers(postgres)
    assert_whole_and_retried(state, url, 0)


def test_a_session_ended_by_an_administrator_is_a_failure_that_may_be_retried(
    postgres: PrivatePostgres, schema: str, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(transaction: Any) -> None:
        pid = transaction._connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        with psycopg.connect(postgres.url) as other:
            other.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))

    url = postgres.url_of(schema=schema)
    with opened(state, url) as ledger:
        ledger.append([entry(0)])
        crash_at(monkeypatch, "insert_rows", end)

        with pytest.raises(StoreError):
            ledger.append([entry(1), entry(2), entry(3)])

    assert_whole_and_retried(state, url, 0)


def wait_until_it_answers(postgres: PrivatePostgres) -> None:
    """Return when the server takes connections again; it refuses them while it recovers."""
    failures: Sequence[str] = []
    while len(failures) < 5000:
        try:
            psycopg.connect(postgres.url).close()
        except psycopg.OperationalError as error:
            failures = [*failures, str(error)]
        else:
            return
    pytest.fail(failures[-1])
