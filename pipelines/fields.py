"""The policy's list of fields: which columns of the data may be used, and what becomes of any other.

An unlisted column is refused before any sample is read, or dropped as samples are decoded. What is dropped is in no
sample digest, check, profile, report, quarantine or admitted file; the bytes of the input still have to be those that
its source signed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa

from millcert.errors import PolicyError
from millcert.pipelines.formats import Decoded, DecodedBudget, ReadLimits, decode
from millcert.pipelines.formats.projection import project_batch
from millcert.pipelines.records import WorkItem, groups_of


@dataclass(frozen=True)
class PlannedFields:
    """Which columns may be used. on_unlisted: "refuse" or "drop"."""

    listed: frozenset[str]
    on_unlisted: str


def permitted_schema(fields: PlannedFields | None, schema: pa.Schema) -> tuple[pa.Schema, tuple[str, ...]]:
    """Return the schema of what may be used, and the columns that are dropped.

    Raises:
        PolicyError: there is an unlisted column and the policy refuses it, or no listed one; or a part of a column is
            listed.
    """
    if fields is None:
        return schema, ()
    _refuse_nested(fields, schema)
    unlisted = tuple(name for name in schema.names if name not in fields.listed)
    if unlisted and fields.on_unlisted == "refuse":
        raise PolicyError(
            f"The data has columns that the policy does not list under `fields`: {', '.join(unlisted[:20])}.",
            hint="List each with its purpose under fields.columns, have it taken out at the source, or set "
            "fields.unlisted to drop.",
            columns=unlisted,
        )
    if len(unlisted) == len(schema):
        raise PolicyError("The data has none of the columns that the policy lists under `fields`.")
    if not unlisted:
        return schema, ()
    return pa.schema([field for field in schema if field.name in fields.listed], metadata=schema.metadata), unlisted


def _refuse_nested(fields: PlannedFields, schema: pa.Schema) -> None:
    """Refuse a list that names a part of a column: it would be taken for a column that the data lacks."""
    for name in sorted(fields.listed - set(schema.names)):
        top = name.partition(".")[0]
        if top in schema.names and pa.types.is_nested(schema.field(top).type):
            raise PolicyError(
                f"The policy lists the field {name!r}, which is a part of the column {top!r}: only whole columns are "
                "listed.",
                hint=f"List {top!r} if all of it may be used; else have that part made a column of its own.",
                columns=(name,),
            )


def decode_permitted(
    item: WorkItem,
    file: BinaryIO,
    stored: pa.Schema,
    permitted: pa.Schema,
    limits: ReadLimits,
    budget: DecodedBudget | None = None,
    columns: frozenset[str] | None = None,
) -> Iterator[Decoded]:
    """Yield a data file's records with the permitted columns only; see `millcert.pipelines.formats.decode`.

    Args:
        item: the file, or a span of it.
        file: its verified bytes.
        stored: schema of all of its columns.
        permitted: schema of those that may be used.
        limits: bounds.
        budget: counts what is decoded; one of its own where None.
        columns: those that are needed, None for all; see `decode`.
    """
    groups = groups_of(item)
    decoded = decode(
        item.data_format,
        file,
        stored,
        limits,
        name=item.name,
        groups=groups,
        budget=budget,
        columns=columns,
        steps=item.steps,
    )
    if len(stored) == len(permitted):
        return decoded
    kept = frozenset(permitted.names)
    return (project_batch(one, kept) for one in decoded)
