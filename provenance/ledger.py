"""Opening the ledger: its database, its public key, and the last checkpoint that this client saw of it.

What the ledger promises stands in `ledger_log`; this module is where callers begin, and names all that they need.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from millcert.errors import StoreError, UsageError
from millcert.provenance.checkpoint import VerifierKey, format_vkey, is_key_name, vkey_of
from millcert.provenance.keys import PUBLIC_MODE, create_file
from millcert.provenance.last_seen import LastSeen
from millcert.provenance.ledger_audit import LedgerReport
from millcert.provenance.ledger_entry import Entry, LoggedEntry
from millcert.provenance.ledger_log import Appended, Ledger
from millcert.provenance.tlog_proof import verify_tlog_proof

if TYPE_CHECKING:
    from millcert.provenance.ledger_sql import SqlStore

#: A SQLite file as a URL: three slashes and a path relative to the working directory, four for an absolute one.
SQLITE_SCHEME = "sqlite:///"

__all__ = [
    "Appended",
    "Entry",
    "Ledger",
    "LedgerReport",
    "LoggedEntry",
    "open_ledger",
    "open_store",
    "verify_tlog_proof",
    "vkey_path",
]


def open_ledger(
    path: Path,
    *,
    origin: str,
    key: Ed25519PrivateKey | None = None,
    create: bool = False,
    vkeys: Sequence[VerifierKey] = (),
    url: str | None = None,
) -> Ledger:
    """Open a ledger; close it after use.

    Args:
        path: the SQLite file, unless `url` names another database. `<name>.checkpoint` beside it keeps the last
            checkpoint that this client saw, and `<name>.vkey` the ledger's public key, written where `key` is given;
            both are this client's own also where the database is elsewhere.
        origin: the ledger's name, without spaces and '+'; fixed for ever when it is made.
        key: the ledger's private key; None opens it for reading only.
        create: make the ledger if there is no file; several processes may do so at once. Needs `key`.
        vkeys: its public keys, for `verify` where `key` is None; the key's own public half always counts.
        url: where the database is: postgresql://USER@HOST/DATABASE, sqlite:///FILE, or a file's path.

    Raises:
        UsageError: there is no ledger and `create` is not set, it is of another origin or a newer schema, the origin is
            no name, the URL is none, or the database's role may not do this.
        SignatureError: the newest checkpoint was signed by another key.
        LedgerError: the file is damaged, or no ledger.
        StoreError: the database cannot be opened or reached.
    """
    if not is_key_name(origin):
        raise UsageError(
            f"A ledger's origin must be a name without spaces and '+', got {origin!r}.",
            hint="Use a URL without its scheme, such as corp.example/training-data.",
        )
    if create and key is None:
        raise UsageError("Making a ledger needs its private key.", hint="Open it with create=False to read it.")
    known = [*vkeys, vkey_of(origin, key)] if key is not None else list(vkeys)
    with _made_folder(path, create=create or url is not None):
        store = open_store(path, url, read_only=key is None, create=create)
    last_seen = LastSeen(path.with_suffix(".checkpoint"))
    ledger = Ledger(store, origin=origin, vkeys=known, key=key, last_seen=last_seen)
    try:
        if create:
            ledger.create()
        ledger.check_settings()
        if key is not None:
            ledger.migrate()
        if key is not None:
            keep_vkey(vkey_path(path), vkey_of(origin, key))
    except BaseException:
        ledger.close()
        raise
    return ledger


def open_store(path: Path, url: str | None = None, *, read_only: bool, create: bool = False) -> "SqlStore":
    """Return the store of the ledger at `path`, or at `url` if there is one; nothing of it is checked.

    Raises:
        UsageError: there is no such file and `create` is not set, or the URL is none.
        StoreError: the folder cannot be made.
    """
    # SQLAlchemy: only those who open a ledger load it.
    if url is not None and "://" in url and not url.startswith(SQLITE_SCHEME):
        from millcert.provenance.ledger_postgres import PostgresStore, parse_postgres_url

        return PostgresStore(parse_postgres_url(url))
    from millcert.provenance.ledger_store import SqliteStore

    file = path if url is None else Path(url.removeprefix(SQLITE_SCHEME))
    with _made_folder(file, create=create):
        return SqliteStore(file, read_only=read_only, create=create)


def vkey_path(path: Path) -> Path:
    """Return where the public key of the ledger at `path` is kept, in its text form."""
    return path.with_suffix(".vkey")


def keep_vkey(path: Path, vkey: VerifierKey) -> None:
    """Write the public key beside the ledger, for those who verify; never replaces another one.

    Raises:
        UsageError: another key lies there.
        StoreError: it cannot be written.
    """
    text = format_vkey(vkey) + "\n"
    try:
        with suppress(FileExistsError):
            create_file(path, text.encode(), PUBLIC_MODE)
        if path.read_bytes() != text.encode():
            raise UsageError(
                f"{path} does not hold the public key of this ledger.",
                hint="Somebody replaced it. If the private key is the right one, delete the file; it is written again.",
                path=str(path),
            )
    except OSError as error:
        raise StoreError(f"The ledger's public key {path} cannot be kept: {error.strerror or error}.") from error


@contextmanager
def _made_folder(path: Path, *, create: bool) -> Iterator[None]:
    try:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        yield
    except OSError as error:
        raise StoreError(f"The ledger's folder {path.parent} cannot be made: {error.strerror}.") from error
