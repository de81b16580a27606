"""A witness: it remembers the largest checkpoint of each log that it cosigned, and cosigns only what extends it.

Rules this module keeps, also when the process dies at any line and when many requests come at once:
  1. What is cosigned is signed by a key of that log, and provably extends all that was cosigned of it before.
  2. The state is on the disk before the cosignature leaves. A client that never got the answer asks again, with the
     size that the 409 tells it, and gets a new one.
  3. Comparing the old size and keeping the new one is one transaction: two requests never both start from one size.
  4. Two checkpoints of one size with two roots, both signed by the log, are kept: they prove that the log lies.

Steps of `add_checkpoint`, and the status where one fails (C2SP tlog-witness v1.0.0):
  1. The request and its checkpoint are well formed (400).
  2. The log is known (404), and one of its keys signed (403).
  3. The old size is not above the checkpoint's (400), and is the size of the last checkpoint cosigned (409, with it).
  4. At equal sizes the roots are equal (409); at larger ones the proof leads from the old root to the new one (422).
  5. The checkpoint is kept; then it is cosigned, with every key of the witness.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.errors import ConsistencyError, LedgerError, SignatureError, StoreError
from millcert.provenance.checkpoint import Checkpoint, VerifierKey, parse_checkpoint, parse_note, verify_checkpoint
from millcert.provenance.cosignature import CosignerKey, cosign
from millcert.provenance.merkle import verify_consistency
from millcert.provenance.witness_request import SIZE_CONTENT_TYPE, AddCheckpoint, parse_request

_TEXT = "text/plain; charset=utf-8"

#: How long one request waits for another one's transaction; each takes a few milliseconds.
_BUSY_TIMEOUT_SECONDS = 30.0

#: Proofs of a lying log that are kept of each log; one is enough, and its keeper may send as many as he likes.
_MAX_CONFLICTS = 16

_TABLES = (
    """CREATE TABLE IF NOT EXISTS logs (
        origin TEXT PRIMARY KEY, size INTEGER NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS conflicts (
        origin TEXT NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL, kept BLOB NOT NULL, note BLOB NOT NULL,
        PRIMARY KEY (origin, size, root)
    )""",
)


@dataclass(frozen=True)
class Answer:
    """What the witness answers: HTTP status, content type and body."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True)
class Seen:
    """The last checkpoint of a log that was cosigned, as kept: its signed note is the log's own."""

    checkpoint: Checkpoint
    note: bytes


@dataclass(frozen=True)
class Conflict:
    """Two signed checkpoints of one log and size with two roots. kept: the one that was cosigned. note: the other."""

    origin: str
    size: int
    kept: bytes
    note: bytes


class WitnessState:
    """What a witness must never forget, in one SQLite file; any number of threads and processes may use it.

    path: the file; made on first use. Its loss, or an old copy put back, lets the witness cosign a rollback: rather
    start a witness under a new name than from an old file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self.transaction() as connection:
            for statement in _TABLES:
                connection.execute(statement)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Open the one transaction that reads and writes; kept durably at its end, undone on any error.

        Raises:
            StoreError: the file cannot be read or written, or it cannot be known that the writes were kept.
        """
        try:
            with closing(self._connect()) as connection:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.commit()
                except BaseException:
                    connection.rollback()
                    raise
        except sqlite3.Error as error:
            raise StoreError(
                f"The witness's state {self._path} could not be read or written: {error}.",
                hint="Nothing was cosigned. Look at disk space, permissions and other processes.",
                path=str(self._path),
            ) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    def seen(self) -> list[Seen]:
        """Return the last checkpoint of each log, by origin."""
        with self.transaction() as connection:
            rows = connection.execute("SELECT note FROM logs ORDER BY origin").fetchall()
        return [Seen(parse_checkpoint(parse_note(note).text), note) for (note,) in rows]

    def conflicts(self) -> list[Conflict]:
        """Return the proofs of lying logs that were kept."""
        query = "SELECT origin, size, kept, note FROM conflicts ORDER BY origin, size, root"
        with self.transaction() as connection:
            return [Conflict(*row) for row in connection.execute(query)]


@dataclass(frozen=True)
class Witness:
    """A witness, ready to answer.

    name: its own. keys: its private keys, at least one; each gives a cosignature.
    logs: origin -> the public keys of the log of that name.
    state: what it remembers. clock: POSIX seconds, for the cosignatures only.
    """

    name: str
    keys: Sequence[CosignerKey]
    logs: Mapping[str, Sequence[VerifierKey]]
    state: WitnessState
    clock: Callable[[], int]

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer one request; see the top of this module for the steps.

        Raises:
            StoreError: the state could not be kept; nothing was cosigned.

        Cost: one durable commit, about 4 ms.
        """
        try:
            request = parse_request(body)  # 1
            checkpoint = self._signed(request.note)
        except LedgerError as error:
            return _refusal(HTTPStatus.BAD_REQUEST, error.message)
        except SignatureError as error:
            return _refusal(HTTPStatus.FORBIDDEN, error.message)
        if checkpoint is None:
            return _refusal(HTTPStatus.NOT_FOUND, "This log is not known here.")
        keys = [key for key in self.keys if isinstance(key, Ed25519PrivateKey) or not checkpoint.extensions]
        if request.old_size > checkpoint.size or not keys:  # 3
            about = "The old size is above the checkpoint's" if keys else "Extension lines are not cosigned here"
            return _refusal(HTTPStatus.BAD_REQUEST, f"{about}.")
        with self.state.transaction() as connection:
            refusal = _keep(connection, request, checkpoint)
        if refusal is not None:
            return refusal
        # 5. If we crash here, the checkpoint is kept and nobody has its cosignature: the client asks again.
        text, time = parse_note(request.note).text, self.clock()
        lines = "".join(cosign(text, self.name, key, time) for key in keys)
        return Answer(HTTPStatus.OK, _TEXT, lines.encode())

    def _signed(self, note: bytes) -> Checkpoint | None:
        """Return the checkpoint in a note, if its log signed it (step 2); None if the log is not known."""
        vkeys = self.logs.get(parse_checkpoint(parse_note(note).text).origin)
        return verify_checkpoint(note, vkeys) if vkeys else None


def _keep(connection: sqlite3.Connection, request: AddCheckpoint, checkpoint: Checkpoint) -> Answer | None:
    """Keep a checkpoint that extends the last one (steps 3 to 5); return the refusal if it does not."""
    row = connection.execute("SELECT size, root, note FROM logs WHERE origin = ?", (checkpoint.origin,)).fetchone()
    size, root, note = row if row is not None else (0, b"", b"")
    if row is not None and size == checkpoint.size and root != checkpoint.root:
        _keep_conflict(connection, checkpoint, note, request.note)
    if request.old_size != size:  # 3
        return _conflict(size)
    if size == checkpoint.size:  # 4
        if request.proof:
            return _refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "The proof between equal sizes must be empty.")
        if row is not None and root != checkpoint.root:  # no size with it: clients tell it from a stale old size
            return _refusal(HTTPStatus.CONFLICT, "Another root was cosigned at this size: the log was forked.")
    elif size == 0:
        if request.proof:
            return _refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "The proof from size 0 must be empty.")
    else:
        try:
            verify_consistency(size, checkpoint.size, request.proof, root, checkpoint.root)
        except ConsistencyError as error:
            return _refusal(HTTPStatus.UNPROCESSABLE_ENTITY, error.message)
    connection.execute(  # 5
        "INSERT INTO logs VALUES (?, ?, ?, ?) "
        "ON CONFLICT (origin) DO UPDATE SET size = excluded.size, root = excluded.root, note = excluded.note",
        (checkpoint.origin, checkpoint.size, checkpoint.root, request.note),
    )
    return None


def _keep_conflict(connection: sqlite3.Connection, checkpoint: Checkpoint, kept: bytes, note: bytes) -> None:
    count = connection.execute("SELECT count(*) FROM conflicts WHERE origin = ?", (checkpoint.origin,)).fetchone()[0]
    if count < _MAX_CONFLICTS:
        values = (checkpoint.origin, checkpoint.size, checkpoint.root, kept, note)
        connection.execute("INSERT OR IGNORE INTO conflicts VALUES (?, ?, ?, ?, ?)", values)


def _conflict(size: int) -> Answer:
    return Answer(HTTPStatus.CONFLICT, SIZE_CONTENT_TYPE, f"{size}\n".encode())


def _refusal(status: HTTPStatus, message: str) -> Answer:
    return Answer(status, _TEXT, f"{message}\n".encode())
