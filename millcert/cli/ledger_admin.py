"""`millcert ledger init`: make a ledger, or its tables and roles in PostgreSQL."""

from pathlib import Path

import click

from millcert.cli.opened import chosen_ledger, state_option
from millcert.cli.output import emit, json_option
from millcert.errors import UsageError


@click.command()
@click.option(
    "--origin", default=None, help="Name of the ledger, such as corp.example/data; signs its first checkpoint."
)
@click.option("--writer", "writers", multiple=True, metavar="ROLE", help="PostgreSQL role that may append.")
@click.option("--reader", "readers", multiple=True, metavar="ROLE", help="PostgreSQL role that may look up and audit.")
@click.option(
    "--predecessor",
    type=click.Path(path_type=Path),
    default=None,
    help="State folder of a ledger that lost entries and cannot go on: its last checkpoint is the first entry here.",
)
@click.option("--reason", default=None, help="Why that ledger cannot go on; goes with --predecessor.")
@click.option(
    "--sql", "as_sql", is_flag=True, help="Print the statements for an empty PostgreSQL database; run nothing."
)
@state_option
@json_option
def init(
    origin: str | None,
    writers: tuple[str, ...],
    readers: tuple[str, ...],
    predecessor: Path | None,
    reason: str | None,
    state: Path | None,
    *,
    as_sql: bool,
    as_json: bool,
) -> None:
    """Make a ledger, or bring its database's schema up to date.

    In PostgreSQL the role that runs this owns the tables and gives --writer and --reader what they need. Without
    --origin only the tables are made; the first writer names the ledger and signs its first checkpoint.
    """
    from millcert.provenance.ledger_setup import is_postgres_url, set_up_statements, set_up_tables

    url = chosen_ledger()
    if (predecessor is None) != (reason is None) or (predecessor is not None and origin is None):
        raise UsageError("--predecessor goes with --reason and a new --origin.", hint="Say why the old one ended.")
    if not is_postgres_url(url) and (as_sql or writers or readers):
        raise UsageError(
            "--sql, --writer and --reader are for a ledger in PostgreSQL.",
            hint="Give --ledger postgresql://USER@HOST/DATABASE; a SQLite file has no roles.",
        )
    if url is not None and as_sql:
        statements = set_up_statements(url, writers=writers, readers=readers)
        emit({"version": 1, "statements": statements}, ";\n".join(["BEGIN", *statements, "COMMIT;"]), as_json=as_json)
        return
    if url is not None and is_postgres_url(url):
        set_up_tables(url, writers=writers, readers=readers)
    elif origin is None:
        raise UsageError("A ledger in a file needs its name.", hint="Give --origin, such as corp.example/data.")
    size, vkey = None, None
    if origin is not None:
        size, vkey = _named(state, origin, url, None if predecessor is None else (predecessor, reason or ""))
    lines = [
        f"ready  {origin or 'a ledger without a name yet'}" + ("" if size is None else f"  {size:,} entries"),
        *([f"  public key: {vkey}"] if vkey else []),
        *([f"  may append: {', '.join(writers)}"] if writers else []),
        *([f"  may read: {', '.join(readers)}"] if readers else []),
        "  next: millcert vet DATASET --policy FILE --out DIR, with the same --ledger",
    ]
    payload = {
        "version": 1,
        "origin": origin,
        "size": size,
        "vkey": vkey,
        "writers": list(writers),
        "readers": list(readers),
    }
    emit(payload, "\n".join(lines), as_json=as_json)


def _named(state: Path | None, origin: str, url: str | None, succeeds: tuple[Path, str] | None) -> tuple[int, str]:
    """Make the ledger of that name, unless it is there; return its size and its public key."""
    from datetime import UTC, datetime

    from millcert.provenance.checkpoint import format_vkey, vkey_of
    from millcert.provenance.keys import load_or_create_key
    from millcert.provenance.ledger import open_ledger
    from millcert.provenance.ledger_setup import predecessor_entry
    from millcert.provenance.state import StateFolder, state_folder

    folder = state_folder(state)
    entry = None
    if succeeds is not None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        entry = predecessor_entry(StateFolder(succeeds[0]), origin, reason=succeeds[1], recorded_at=now)
    key = load_or_create_key(folder.path / "keys" / "ledger.key")
    with open_ledger(folder.ledger, origin=origin, key=key, create=True, url=url) as ledger:
        if entry is not None:
            if ledger.size:
                raise UsageError(
                    f"The ledger {origin} has {ledger.size} entries; only a new one can name its predecessor.",
                    hint="Choose a new --origin and an empty --state or --ledger.",
                )
            ledger.append([entry])
        return ledger.size, format_vkey(vkey_of(origin, key))
