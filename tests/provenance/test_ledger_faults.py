"""Each write fails once, in each way it can fail, in each database, and the next append makes everything right."""

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.errors import MillcertError, StoreError
from millcert.provenance import ledger_store
from millcert.provenance.checkpoint import vkey_of
from millcert.provenance.last_seen import LastSeen
from millcert.provenance.ledger import Entry, Ledger, open_ledger, open_store
from millcert.provenance.ledger_contract import LedgerStore, Row, Snapshot, Transaction
from millcert.provenance.ledger_store import SqliteStore

REPOSITORY = Path(__file__).resolve().parents[2]
ORIGIN = "example.com/ledger"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WHEN = "2026-11-23T02:38:55Z"
WRITES = ["insert_rows", "put_tile", "insert_checkpoint", "commit", "last_seen"]


class Place(Protocol):
    """See `LedgerPlace` in conftest.py."""

    @property
    def path(self) -> Path: ...
    @property
    def url(self) -> str | None: ...
    def arguments(self) -> list[str]: ...


def entry(number: int) -> Entry:
    return Entry("verdict", f"set-{number}", WHEN, {"number": number})


def opened(place: Place, *, create: bool = False) -> Ledger:
    return open_ledger(place.path, origin=ORIGIN, key=KEY, url=place.url, create=create)


@dataclass
class Fault:
    """One write that fails: before it is done ("lost"), or after ("kept_but_reported_failed")."""

    write: str
    outcome: str

    @contextmanager
    def around(self, write: str) -> Iterator[None]:
        if write == self.write and self.outcome == "lost":
            raise StoreError(f"{write} failed")
        yield
        if write == self.write:
            raise StoreError(f"{write} failed, or so it seemed")


class FaultyTransaction:
    """A transaction whose writes go through a fault."""

    def __init__(self, inner: Transaction, fault: Fault) -> None:
        self._inner = inner
        self._fault = fault
        self.size = inner.size
        self.rows = inner.rows
        self.find = inner.find
        self.indexes_of = inner.indexes_of
        self.tile = inner.tile
        self.tile_count = inner.tile_count
        self.checkpoints = inner.checkpoints
        self.newest_checkpoint = inner.newest_checkpoint
        self.setting = inner.setting
        self.is_new = inner.is_new
        self.schema_version = inner.schema_version

    def create(self, settings: Mapping[str, str]) -> None:
        with self._fault.around("create"):
            self._inner.create(settings)

    def migrate(self) -> None:
        self._inner.migrate()

    def insert_rows(self, rows: Sequence[Row]) -> None:
        with self._fault.around("insert_rows"):
            self._inner.insert_rows(rows)

    def put_tile(self, level: int, number: int, hashes: bytes) -> None:
        with self._fault.around("put_tile"):
            self._inner.put_tile(level, number, hashes)

    def insert_checkpoint(self, size: int, note: bytes) -> None:
        with self._fault.around("insert_checkpoint"):
            self._inner.insert_checkpoint(size, note)


class FaultyStore:
    """A store that keeps its promises, until its fault."""

    def __init__(self, inner: LedgerStore, fault: Fault) -> None:
        self._inner = inner
        self._fault = fault

    @contextmanager
    def reading(self) -> Iterator[Snapshot]:
        with self._inner.reading() as snapshot:
            yield snapshot

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        with self._inner.writing() as transaction:
            yield FaultyTransaction(transaction, self._fault)
            if (self._fault.write, self._fault.outcome) == ("commit", "lost"):
                raise StoreError("commit failed")
        if self._fault.write == "commit":
            raise StoreError("commit failed, or so it seemed")

    def close(self) -> None:
        self._inner.close()


class FaultyLastSeen(LastSeen):
    """A last seen checkpoint that cannot be kept once, or is kept but says that it was not."""

    def advance(self, note: bytes) -> None:
        if self.path.with_suffix(".fault").read_text() == "kept_but_reported_failed":
            super().advance(note)
        raise StoreError("the checkpoint could not be kept")


def faulty_ledger(place: Place, fault: Fault, *, create: bool = False) -> Ledger:
    seen = place.path.with_suffix(".checkpoint")
    seen.parent.mkdir(exist_ok=True)
    seen.with_suffix(".fault").write_text(fault.outcome)
    return Ledger(
        FaultyStore(open_store(place.path, place.url, read_only=False, create=create), fault),
        origin=ORIGIN,
        vkeys=[vkey_of(ORIGIN, KEY)],
        key=KEY,
        last_seen=FaultyLastSeen(seen) if fault.write == "last_seen" else LastSeen(seen),
    )


def filled(place: Place, count: int) -> None:
    with opened(place, create=True) as ledger:
        if count:
            ledger.append([entry(-1 - number) for number in range(count)])


@pytest.mark.parametrize("before", [0, 1, 255, 256])
@pytest.mark.parametrize("outcome", ["lost", "kept_but_reported_failed"])
def test_a_failed_write_never_loses_or_repeats_a_leaf(place: Place, outcome: str, before: int) -> None:
    """Rule 3, in a ledger that is empty, has one entry, is one short of a tile, and has a full tile."""
    filled(place, before)
    size = before
    for number, write in enumerate(WRITES):
        batch = [entry(10 * number + one) for one in range(3)]
        with faulty_ledger(place, Fault(write, outcome)) as ledger, pytest.raises(StoreError):
            ledger.append(batch)

        with opened(place) as healed:
            was_kept = write == "last_seen" or (write, outcome) == ("commit", "kept_but_reported_failed")
            assert healed.size == (size + 3 if was_kept else size), write
            healed.verify()

            again = healed.append([*batch, entry(10 * number + 3)])

            assert again.indexes == tuple(range(size, size + 4)), write
            size += 4
            assert healed.verify().size == size, write


@pytest.mark.parametrize("outcome", ["lost", "kept_but_reported_failed"])
@pytest.mark.parametrize("write", ["create", "insert_checkpoint", "commit"])
def test_a_ledger_whose_making_failed_is_made_by_the_next_attempt(place: Place, write: str, outcome: str) -> None:
    with faulty_ledger(place, Fault(write, outcome), create=True) as ledger, pytest.raises(StoreError):
        ledger.create()

    with opened(place, create=True) as healed:
        assert healed.verify().size == 0
        assert healed.append([entry(0)]).indexes == (0,)
        assert healed.verify().size == 1


KILLED = """
import os, signal, sys
from pathlib import Path
import sqlalchemy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from millcert.provenance import last_seen, ledger_sql
from millcert.provenance.ledger import Entry, open_ledger

def killing(name, owner):
    real = getattr(owner, name)
    def die(*args, **kwargs):
        if moment == "after":
            real(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, die)

path, url, write, moment = sys.argv[1:]
key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
with open_ledger(Path(path), origin="example.com/ledger", key=key, url=url or None) as ledger:
    owners = {"advance": last_seen.LastSeen, "commit": sqlalchemy.Connection}
    killing(write, owners.get(write, ledger_sql._SqlTransaction))
    ledger.append([Entry("verdict", f"set-{n}", "2026-11-23T02:38:55Z", {"number": n}) for n in range(3)])
"""


@pytest.mark.parametrize(
    ("write", "moment", "kept"),
    [
        ("insert_rows", "after", 0),
        ("put_tile", "after", 0),
        ("insert_checkpoint", "after", 0),
        ("commit", "before", 0),
        ("commit", "after", 3),
        ("advance", "after", 3),
    ],
)
def test_a_process_killed_while_it_appends_leaves_all_or_nothing(
    place: Place, write: str, moment: str, kept: int
) -> None:
    filled(place, 1)

    command = [sys.executable, "-c", KILLED, *place.arguments(), write, moment]
    killed = subprocess.run(command, cwd=REPOSITORY, check=False)

    assert killed.returncode == -signal.SIGKILL
    with opened(place) as ledger:
        assert ledger.verify().size == 1 + kept
        assert ledger.append([entry(0), entry(1), entry(2)]).indexes == (1, 2, 3)
        assert ledger.verify().size == 4


APPENDER = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from millcert.provenance.ledger import Entry, open_ledger
path, url, name, count = sys.argv[1:]
key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
def entry(word):
    return Entry("verdict", word, "2026-11-23T02:38:55Z", {"word": word})
with open_ledger(Path(path), origin="example.com/ledger", key=key, create=True, url=url or None) as ledger:
    sys.stdin.readline()
    for number in range(int(count)):
        batch = [f"mine-{name}-{number}", f"shared-{number}"]
        appended = ledger.append([entry(word) for word in batch])
        for word, index in zip(batch, appended.indexes, strict=True):
            print(word, index, flush=True)
"""


def appenders(place: Place, names: Sequence[str], count: int) -> list["subprocess.Popen[str]"]:
    return [
        subprocess.Popen(
            [sys.executable, "-c", APPENDER, *place.arguments(), name, str(count)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        for name in names
    ]


def test_eight_processes_that_make_and_fill_one_ledger_lose_and_repeat_nothing(place: Place) -> None:
    workers = appenders(place, "abcdefgh", 10)
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()

    answers = [worker.communicate()[0] for worker in workers]

    assert [worker.returncode for worker in workers] == [0] * 8
    places: dict[str, set[int]] = {}
    for line in "".join(answers).splitlines():
        word, index = line.split()
        places.setdefault(word, set()).add(int(index))
    assert len(places) == 8 * 10 + 10
    assert sorted(index for found in places.values() for index in found) == list(range(90))
    with opened(place) as ledger:
        assert ledger.verify().size == 90
        assert {ledger.get(index).entry.subject for index in range(90)} == set(places)


def test_of_writers_killed_in_the_middle_nothing_that_they_were_told_is_kept_is_lost(place: Place) -> None:
    """Three processes append at once; each is killed, by -9, after it was told of some entries."""
    filled(place, 1)
    told: dict[str, int] = {}
    workers = appenders(place, "abc", 10_000)
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for lines, worker in zip((5, 9, 14), workers, strict=True):
        assert worker.stdout is not None
        for _ in range(lines):
            word, index = worker.stdout.readline().split()
            assert told.setdefault(word, int(index)) == int(index)
        worker.kill()
    for worker in workers:
        rest = worker.communicate()[0]
        assert worker.returncode == -signal.SIGKILL
        for line in rest.splitlines():
            if len(line.split()) == 2 and rest.endswith("\n"):
                told[line.split()[0]] = int(line.split()[1])

    with opened(place) as ledger:
        report = ledger.verify()
        assert report.size > len(told)
        assert {word: ledger.get(index).entry.subject for word, index in told.items()} == {word: word for word in told}
        again = ledger.append([Entry("verdict", word, WHEN, {"word": word}) for word in told])
        assert again.indexes == tuple(told.values())
        assert ledger.verify().size == report.size


def test_a_disk_that_is_full_in_the_middle_leaves_nothing_and_is_a_failure_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own bound on the number of pages: it answers like a file system without room."""
    path = tmp_path / "ledger.db"
    with open_ledger(path, origin=ORIGIN, key=KEY, create=True) as ledger:
        ledger.append([entry(0)])
    real = ledger_store._connect

    def bounded(uri: str, *, read_only: bool) -> sqlite3.Connection:
        connection = real(uri, read_only=read_only)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages + 5}")
        return connection

    batch = [entry(number) for number in range(1, 400)]
    with monkeypatch.context() as patched:
        patched.setattr("millcert.provenance.ledger_store._connect", bounded)
        with open_ledger(path, origin=ORIGIN, key=KEY) as ledger, pytest.raises(StoreError, match="full"):
            ledger.append(batch)

    with open_ledger(path, origin=ORIGIN, key=KEY) as ledger:
        assert ledger.verify().size == 1
        assert ledger.append(batch).indexes == tuple(range(1, 400))


def test_a_database_locked_by_another_process_is_a_failure_that_may_be_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    monkeypatch.setattr("millcert.provenance.ledger_store.BUSY_TIMEOUT_SECONDS", 0.01)
    with open_ledger(path, origin=ORIGIN, key=KEY, create=True) as ledger:
        holder = SqliteStore(path)
        with holder.writing() as transaction:
            assert transaction.size() == 0
            with pytest.raises(StoreError, match="locked") as caught:
                ledger.append([entry(0)])
        holder.close()

        assert isinstance(caught.value, MillcertError)
        assert "try again" in caught.value.hint
        assert ledger.append([entry(0)]).indexes == (0,)
