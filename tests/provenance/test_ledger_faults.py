"""Each write of an append fails once, in each way it can fail, and the next append makes everything right."""

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.errors import MillcertError, StoreError
from millcert.provenance.checkpoint import vkey_of
from millcert.provenance.last_seen import LastSeen
from millcert.provenance.ledger import Entry, Ledger, open_ledger
from millcert.provenance.ledger_contract import LedgerStore, Row, Snapshot, Transaction
from millcert.provenance.ledger_store import SqliteStore

REPOSITORY = Path(__file__).resolve().parents[2]
ORIGIN = "example.com/ledger"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
WHEN = "2026-11-23T02:38:55Z"
WRITES = ["insert_rows", "put_tile", "insert_checkpoint", "commit", "last_seen"]


def entry(number: int) -> Entry:
    return Entry("verdict", f"set-{number}", WHEN, {"number": number})


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
        self.migrate = inner.migrate

    def create(self, settings: Mapping[str, str]) -> None:
        self._inner.create(settings)

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


def faulty_ledger(path: Path, fault: Fault) -> Ledger:
    seen = path.with_suffix(".checkpoint")
    seen.with_suffix(".fault").write_text(fault.outcome)
    return Ledger(
        FaultyStore(SqliteStore(path), fault),
        origin=ORIGIN,
        vkeys=[vkey_of(ORIGIN, KEY)],
        key=KEY,
        last_seen=FaultyLastSeen(seen) if fault.write == "last_seen" else LastSeen(seen),
    )


@pytest.fixture(params=[0, 1, 255, 256])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A ledger with that many entries: empty, one, one short of a tile, a full tile."""
    path = tmp_path / "ledger.db"
    with open_ledger(path, origin=ORIGIN, key=KEY, create=True) as ledger:
        if request.param:
            ledger.append([entry(-1 - number) for number in range(request.param)])
    return path


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("outcome", ["lost", "kept_but_reported_failed"])
def test_a_failed_write_never_loses_or_repeats_a_leaf(path: Path, write: str, outcome: str) -> None:
    """Rule 3: after a crash at any line, the next append of the same entries reaches rules 1 and 2."""
    with open_ledger(path, origin=ORIGIN, key=KEY) as ledger:
        before = ledger.size
    with faulty_ledger(path, Fault(write, outcome)) as ledger, pytest.raises(StoreError):
        ledger.append([entry(0), entry(1), entry(2)])

    with open_ledger(path, origin=ORIGIN, key=KEY) as healed:
        was_kept = write == "last_seen" or (write, outcome) == ("commit", "kept_but_reported_failed")
        assert healed.size == (before + 3 if was_kept else before)
        healed.verify()

        again = healed.append([entry(0), entry(1), entry(2), entry(3)])

        assert again.indexes == tuple(range(before, before + 4))
        assert healed.verify().size == before + 4


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from millcert.provenance import last_seen, ledger_sql
from millcert.provenance.ledger import Entry, open_ledger

def killing(name, owner):
    real = getattr(owner, name)
    def die(*args, **kwargs):
        if sys.argv[3] == "after":
            real(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
    setattr(owner, name, die)

key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
with open_ledger(Path(sys.argv[1]), origin="example.com/ledger", key=key) as ledger:
    owner = last_seen.LastSeen if sys.argv[2] == "advance" else ledger_sql._SqlTransaction
    killing(sys.argv[2], owner)
    ledger.append([Entry("verdict", f"set-{n}", "2026-11-23T02:38:55Z", {"number": n}) for n in range(3)])
"""


@pytest.mark.parametrize(
    ("write", "moment", "kept"),
    [
        ("insert_rows", "after", 0),
        ("put_tile", "after", 0),
        ("insert_checkpoint", "before", 0),
        ("insert_checkpoint", "after", 0),
        ("advance", "before", 3),
        ("advance", "after", 3),
    ],
)
def test_a_process_killed_while_it_appends_leaves_all_or_nothing(
    tmp_path: Path, write: str, moment: str, kept: int
) -> None:
    path = tmp_path / "ledger.db"
    with open_ledger(path, origin=ORIGIN, key=KEY, create=True) as ledger:
        ledger.append([entry(9)])

    killed = subprocess.run([sys.executable, "-c", KILLED, path, write, moment], cwd=REPOSITORY, check=False)

    assert killed.returncode == -signal.SIGKILL
    with open_ledger(path, origin=ORIGIN, key=KEY) as ledger:
        assert ledger.verify().size == 1 + kept
        assert ledger.append([entry(0), entry(1), entry(2)]).indexes == (1, 2, 3)
        assert ledger.verify().size == 4


APPENDER = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from millcert.provenance.ledger import Entry, open_ledger
key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
def entry(word):
    return Entry("verdict", word, "2026-11-23T02:38:55Z", {"word": word})
sys.stdin.readline()
with open_ledger(Path(sys.argv[1]), origin="example.com/ledger", key=key, create=True) as ledger:
    for number in range(15):
        batch = [f"mine-{sys.argv[2]}-{number}", f"shared-{number}"]
        appended = ledger.append([entry(word) for word in batch])
        for word, index in zip(batch, appended.indexes, strict=True):
            print(word, index)
"""


def test_four_processes_that_make_and_fill_one_ledger_lose_and_repeat_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state" / "ledger.db"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", APPENDER, path, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        for number in range(4)
    ]

    answers = [worker.communicate("go\n")[0] for worker in workers]

    assert [worker.returncode for worker in workers] == [0] * 4
    places: dict[str, set[int]] = {}
    for line in "".join(answers).splitlines():
        word, index = line.split()
        places.setdefault(word, set()).add(int(index))
    assert len(places) == 4 * 15 + 15
    assert sorted(index for found in places.values() for index in found) == list(range(75))
    with open_ledger(path, origin=ORIGIN, key=KEY) as ledger:
        assert ledger.verify().size == 75
        assert {ledger.get(index).entry.subject for index in range(75)} == set(places)


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
