"""Making a ledger's tables before anybody appends: what the owner of a PostgreSQL database does for its writers.

The owner makes and migrates the tables and gives roles their rights; it needs no key of the ledger. The first writer
that opens the ledger with a key names it and signs its first checkpoint.
"""

from collections.abc import Sequence

from millcert.errors import UsageError
from millcert.provenance.checkpoint import verify_checkpoint
from millcert.provenance.last_seen import LastSeen
from millcert.provenance.ledger_contract import NEWEST_SCHEMA, require_known_schema
from millcert.provenance.ledger_entry import Entry
from millcert.provenance.state import StateFolder, load_ledger_vkeys


def is_postgres_url(url: str | None) -> bool:
    """Say whether a ledger's URL names a PostgreSQL database, by its scheme alone."""
    return url is not None and url.startswith(("postgresql:", "postgresql+psycopg:", "postgres:"))


def set_up_tables(url: str, *, writers: Sequence[str] = (), readers: Sequence[str] = ()) -> int:
    """Make or migrate the tables of a ledger in PostgreSQL and give roles their rights; return the schema's version.

    Args:
        url: of the database, as a role that may make tables there and then owns them.
        writers: roles that may append.
        readers: roles that may look up and audit.

    Raises:
        UsageError: the URL is none, a role does not exist, or this role may not do that.
        StoreError: the database could not be reached; each of the two steps is done whole or not at all.
    """
    from millcert.provenance.ledger_postgres import PostgresStore, parse_postgres_url

    store = PostgresStore(parse_postgres_url(url))
    try:
        with store.writing() as transaction:
            require_known_schema(transaction.schema_version())
            transaction.migrate()
        store.grant(writers=tuple(writers), readers=tuple(readers))
    finally:
        store.close()
    return NEWEST_SCHEMA


def set_up_statements(url: str, *, writers: Sequence[str] = (), readers: Sequence[str] = ()) -> list[str]:
    """Return what `set_up_tables` would run in an empty database, for those who let nobody but psql near it.

    Raises:
        UsageError: the URL is none.
    """
    from millcert.provenance.ledger_postgres import parse_postgres_url
    from millcert.provenance.ledger_postgres_schema import postgres_grants, postgres_step

    schema = parse_postgres_url(url).schema
    steps = [statement for version in range(1, NEWEST_SCHEMA + 1) for statement in postgres_step(version, schema)]
    return steps + postgres_grants(schema, writers=tuple(writers), readers=tuple(readers))


def predecessor_entry(old: StateFolder, origin: str, *, reason: str, recorded_at: str) -> Entry:
    """Return the first entry of a ledger that goes on where another one cannot: it names what was last signed there.

    Args:
        old: the state folder of the ledger that lost entries: its public key and the last checkpoint that was seen.
        origin: of the new ledger; another name, because one name must not have two histories.
        reason: in words, for auditors.
        recorded_at: RFC 3339 in UTC.

    Raises:
        UsageError: nothing was seen of the old ledger, or the names are the same.
        LedgerError, SignatureError: its last checkpoint does not verify.
    """
    vkeys = load_ledger_vkeys([old.ledger_vkey])
    note = LastSeen(old.ledger.with_suffix(".checkpoint")).read()
    if note is None:
        raise UsageError(
            f"No checkpoint was kept in {old.path}.",
            hint="Name the state folder of the old ledger.",
            path=str(old.path),
        )
    seen = verify_checkpoint(note, vkeys)
    if seen.origin == origin:
        raise UsageError(
            f"The new ledger cannot be called {origin!r} too: one name must not have two histories.",
            hint="Add a number or a date to the name.",
        )
    body = {"checkpoint": note.decode(), "reason": reason, "root": seen.root.hex(), "size": seen.size}
    return Entry("predecessor", seen.origin, recorded_at, body)
