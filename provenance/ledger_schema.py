"""The ledger's tables, and how a SQLite database comes to have them: one step a schema version, never edited later.

| version | what it adds |
|---|---|
| 1 | entries, tiles, checkpoints, settings; triggers that refuse changes (millcert 0.1.0) |
| 2 | schema_versions; a checkpoint is of exactly the entries that are there; settings end with the first checkpoint |

A step is text, not made of the tables below: those may change, what an older millcert wrote does not.
PostgreSQL's steps are in `ledger_postgres_schema`.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

#: What the triggers say, in both databases.
APPEND_ONLY = "the ledger is append-only"
NO_GAPS = "the ledger has no gaps"
OWN_SIZE = "a checkpoint of the ledger covers exactly its entries"
FIXED = "settings of the ledger are fixed"


class Blob(sa.LargeBinary):
    """Bytes that come back as bytes even where somebody put another type into the row."""

    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:  # noqa: ARG002 - the library's signature
        """Return the function that makes bytes of what the driver hands out."""
        return as_bytes


def as_bytes(value: object) -> bytes:
    """Return a stored value as bytes, whatever its type became in a database that somebody edited."""
    return value if isinstance(value, bytes) else as_text(value).encode("utf-8", "surrogateescape")


def as_text(value: object) -> str:
    """Return a stored value as text, whatever its type became in a database that somebody edited."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return value if isinstance(value, str) else repr(value)


METADATA = sa.MetaData()
ENTRIES = sa.Table(
    "entries",
    METADATA,
    sa.Column("idx", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("leaf_hash", Blob, nullable=False, unique=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("leaf", sa.Text, nullable=False),
)
TILES = sa.Table(
    "tiles",
    METADATA,
    sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("hashes", Blob, nullable=False),
)
CHECKPOINTS = sa.Table(
    "checkpoints",
    METADATA,
    sa.Column("size", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("note", Blob, nullable=False),
)
SETTINGS = sa.Table(
    "settings",
    METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
SCHEMA_VERSIONS = sa.Table(
    "schema_versions",
    METADATA,
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
)


def sqlite_step(version: int) -> list[str]:
    """Return the statements that lead a SQLite database from schema `version` - 1 to `version`."""
    return list(_SQLITE_STEPS[version])


def _sqlite_trigger(name: str, event: str, table: str, when: str | None, message: str) -> str:
    condition = f"WHEN {when} " if when else ""
    return (
        f"CREATE TRIGGER IF NOT EXISTS {name} BEFORE {event} ON {table} {condition}"
        f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
    )


_SQLITE_STEPS: dict[int, tuple[str, ...]] = {
    1: (
        (
            "CREATE TABLE entries (idx INTEGER NOT NULL, leaf_hash BLOB NOT NULL, kind TEXT NOT NULL, "
            "subject TEXT NOT NULL, leaf TEXT NOT NULL, PRIMARY KEY (idx), UNIQUE (leaf_hash))"
        ),
        "CREATE INDEX entries_by_kind ON entries (kind, idx)",
        "CREATE INDEX entries_by_subject ON entries (subject, idx)",
        (
            "CREATE TABLE tiles (level INTEGER NOT NULL, number BIGINT NOT NULL, hashes BLOB NOT NULL, "
            "PRIMARY KEY (level, number))"
        ),
        "CREATE TABLE checkpoints (size INTEGER NOT NULL, note BLOB NOT NULL, PRIMARY KEY (size))",
        "CREATE TABLE settings (name TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (name))",
        *(
            _sqlite_trigger(f"{table}_no_{verb}", verb, table, None, APPEND_ONLY)
            for table in ("entries", "checkpoints", "settings")
            for verb in ("update", "delete")
        ),
        _sqlite_trigger(
            "entries_in_order",
            "INSERT",
            "entries",
            "NEW.idx <> (SELECT coalesce(max(idx) + 1, 0) FROM entries)",
            NO_GAPS,
        ),
        _sqlite_trigger("tiles_no_delete", "DELETE", "tiles", None, APPEND_ONLY),
        _sqlite_trigger(
            "tiles_only_grow",
            "UPDATE",
            "tiles",
            "NEW.level <> OLD.level OR NEW.number <> OLD.number OR length(NEW.hashes) <= length(OLD.hashes) "
            "OR substr(NEW.hashes, 1, length(OLD.hashes)) <> OLD.hashes",
            APPEND_ONLY,
        ),
    ),
    2: (
        "CREATE TABLE schema_versions (version INTEGER NOT NULL, PRIMARY KEY (version))",
        "INSERT INTO schema_versions (version) VALUES (1), (2)",
        _sqlite_trigger("schema_versions_no_update", "update", "schema_versions", None, APPEND_ONLY),
        _sqlite_trigger("schema_versions_no_delete", "delete", "schema_versions", None, APPEND_ONLY),
        _sqlite_trigger(
            "checkpoints_in_order",
            "INSERT",
            "checkpoints",
            "NEW.size <> (SELECT coalesce(max(idx) + 1, 0) FROM entries)",
            OWN_SIZE,
        ),
        _sqlite_trigger("settings_fixed", "INSERT", "settings", "EXISTS (SELECT 1 FROM checkpoints)", FIXED),
    ),
}
