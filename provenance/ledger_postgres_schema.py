"""How a PostgreSQL schema comes to have the ledger's tables, triggers and grants.

One step a schema version (`ledger_schema` has the table of versions), never edited afterwards. The triggers run with a
fixed search path and under ENABLE ALWAYS, so that no setting of a session turns them aside, and take the sequencer's
lock themselves, so that a writer who forgot it cannot race one who did not. Only who owns the tables can drop them.
"""

import hashlib
import re

from millcert.provenance.ledger_schema import APPEND_ONLY, FIXED, NO_GAPS, OWN_SIZE

#: PostgreSQL names that need no quotes and no thought: what a schema may be called.
SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def postgres_step(version: int, schema: str) -> list[str]:
    """Return the statements that lead a PostgreSQL schema from schema version `version` - 1 to `version`.

    Args:
        version: 1 to SCHEMA_VERSION.
        schema: the PostgreSQL schema, of SCHEMA_NAME's form.
    """
    lock = str(sequencer_lock(schema))
    return [text.replace("@S", f'"{schema}"').replace("@N", schema).replace("@L", lock) for text in _STEPS[version]]


def sequencer_lock(schema: str) -> int:
    """Return the key of the advisory lock under which one process at a time writes: its own for each schema."""
    return int.from_bytes(hashlib.sha256(f"millcert ledger {schema}".encode()).digest()[:8], "big", signed=True)


def postgres_grants(schema: str, *, writers: tuple[str, ...], readers: tuple[str, ...]) -> list[str]:
    """Return the statements that give each role what it needs, and take from the owner what nobody needs.

    The owner, who runs them, keeps the rights of a writer.

    Args:
        schema: the PostgreSQL schema.
        writers: roles that append.
        readers: roles that look up and audit.
    """
    tables = ("entries", "tiles", "checkpoints", "settings", "schema_versions")
    all_tables = ", ".join(f'"{schema}".{table}' for table in tables)
    statements = [
        f'REVOKE ALL ON SCHEMA "{schema}" FROM PUBLIC',
        f"REVOKE ALL ON {all_tables} FROM PUBLIC",
        f"REVOKE UPDATE, DELETE, TRUNCATE ON {all_tables} FROM CURRENT_USER",
        f'GRANT UPDATE (hashes) ON "{schema}".tiles TO CURRENT_USER',
    ]
    for role in (*writers, *readers):
        statements += [
            f"REVOKE ALL ON {all_tables} FROM {_quoted(role)}",
            f'GRANT USAGE ON SCHEMA "{schema}" TO {_quoted(role)}',
            f"GRANT SELECT ON {all_tables} TO {_quoted(role)}",
        ]
    for role in writers:
        statements += [
            (
                f'GRANT INSERT ON "{schema}".entries, "{schema}".tiles, "{schema}".checkpoints, "{schema}".settings '
                f"TO {_quoted(role)}"
            ),
            f'GRANT UPDATE (hashes) ON "{schema}".tiles TO {_quoted(role)}',
        ]
    return statements


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _function(name: str, body: str, message: str) -> str:
    body = body.replace("@REFUSE", f"RAISE EXCEPTION '{message}';")
    return (
        f"CREATE FUNCTION @S.{name}() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp "
        f"AS $$ BEGIN {body} END $$"
    )


def _trigger(name: str, events: str, table: str, each: str, function: str) -> tuple[str, str]:
    return (
        f"CREATE TRIGGER {name} BEFORE {events} ON @S.{table} FOR EACH {each} EXECUTE FUNCTION @S.{function}()",
        f"ALTER TABLE @S.{table} ENABLE ALWAYS TRIGGER {name}",
    )


_STEPS: dict[int, tuple[str, ...]] = {
    1: (
        # Not IF NOT EXISTS: that asks for the right to make schemas also where the owner was given this one.
        (
            "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = '@N') "
            "THEN CREATE SCHEMA @S; END IF; END $$"
        ),
        (
            "CREATE TABLE @S.entries (idx BIGINT PRIMARY KEY, leaf_hash BYTEA NOT NULL UNIQUE, kind TEXT NOT NULL, "
            "subject TEXT NOT NULL, leaf TEXT NOT NULL)"
        ),
        "CREATE INDEX entries_by_kind ON @S.entries (kind, idx)",
        "CREATE INDEX entries_by_subject ON @S.entries (subject, idx)",
        (
            "CREATE TABLE @S.tiles (level INTEGER NOT NULL, number BIGINT NOT NULL, hashes BYTEA NOT NULL, "
            "PRIMARY KEY (level, number))"
        ),
        # Hashes do not compress; do not try at every append.
        "ALTER TABLE @S.tiles ALTER COLUMN hashes SET STORAGE EXTERNAL",
        "CREATE TABLE @S.checkpoints (size BIGINT PRIMARY KEY, note BYTEA NOT NULL)",
        "CREATE TABLE @S.settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        _function("refuse_change", "@REFUSE", APPEND_ONLY),
        _function(
            "entries_in_order",
            "PERFORM pg_advisory_xact_lock(@L); "
            "IF NEW.idx <> (SELECT coalesce(max(idx) + 1, 0) FROM @S.entries) THEN @REFUSE END IF; RETURN NEW;",
            NO_GAPS,
        ),
        _function(
            "tiles_only_grow",
            "IF NEW.level <> OLD.level OR NEW.number <> OLD.number "
            "OR octet_length(NEW.hashes) <= octet_length(OLD.hashes) "
            "OR substring(NEW.hashes FROM 1 FOR octet_length(OLD.hashes)) <> OLD.hashes "
            "THEN @REFUSE END IF; RETURN NEW;",
            APPEND_ONLY,
        ),
        *(
            statement
            for table in ("entries", "checkpoints", "settings")
            for statement in _trigger(
                f"{table}_no_change", "UPDATE OR DELETE OR TRUNCATE", table, "STATEMENT", "refuse_change"
            )
        ),
        *_trigger("entries_in_order", "INSERT", "entries", "ROW", "entries_in_order"),
        *_trigger("tiles_no_delete", "DELETE OR TRUNCATE", "tiles", "STATEMENT", "refuse_change"),
        *_trigger("tiles_only_grow", "UPDATE", "tiles", "ROW", "tiles_only_grow"),
    ),
    2: (
        "CREATE TABLE @S.schema_versions (version INTEGER PRIMARY KEY)",
        "INSERT INTO @S.schema_versions (version) VALUES (1), (2)",
        *_trigger(
            "schema_versions_no_change", "UPDATE OR DELETE OR TRUNCATE", "schema_versions", "STATEMENT", "refuse_change"
        ),
        _function(
            "checkpoints_in_order",
            "PERFORM pg_advisory_xact_lock(@L); "
            "IF NEW.size <> (SELECT coalesce(max(idx) + 1, 0) FROM @S.entries) THEN @REFUSE END IF; RETURN NEW;",
            OWN_SIZE,
        ),
        _function(
            "settings_fixed",
            "IF EXISTS (SELECT 1 FROM @S.checkpoints) THEN @REFUSE END IF; RETURN NEW;",
            FIXED,
        ),
        *_trigger("checkpoints_in_order", "INSERT", "checkpoints", "ROW", "checkpoints_in_order"),
        *_trigger("settings_fixed", "INSERT", "settings", "ROW", "settings_fixed"),
    ),
}
