"""Row counts and row trees of a folder's files, for the manifest that their owner signs. No Beam job.

A manifest that states them binds how its files are decoded: the gate compares them with what it read itself, wherever
both were computed under one schema.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from millcert.checks.sample_digest import sample_digests, schema_id
from millcert.pipelines.formats import (
    HEAD_BYTES,
    ReadLimits,
    SchemaFacts,
    decode,
    detect_format,
    merge_schemas,
    read_schema,
)
from millcert.pipelines.read import leaf_hashes
from millcert.pipelines.records import WorkItem
from millcert.pipelines.spool import kind_of, read_verified
from millcert.provenance.manifest import FileEntry
from millcert.provenance.merkle import TreeBuilder


def with_row_facts(
    folder: Path, entries: Sequence[FileEntry], declared: pa.Schema | None, limits: ReadLimits
) -> tuple[FileEntry, ...]:
    """Return `entries` with rows, row_tree_root and schema_id of every data file; others stay as they are.

    Args:
        folder: where the files are.
        entries: with the digests that the files must still meet.
        declared: the columns' types for files that have none (JSONL, CSV); inferred from all of them where None.
        limits: bounds on reading.

    Raises:
        UsageError: two files disagree on a column.
        DigestMismatchError, HostileDataError, StoreError: as for reading.

    Cost: two reads of every data file.
    """
    data = [entry for entry in entries if kind_of(entry.path) not in {None, "auxiliary"}]
    found = []
    for entry in data:
        with read_verified(str(folder / entry.path), expected_sha256=entry.sha256, limits=limits) as spooled:
            kind = detect_format(entry.path, spooled.file.read(HEAD_BYTES))
            facts = read_schema(kind, spooled.file, limits, name=entry.path)
        is_untyped = declared is not None and facts.is_inferred
        found.append((entry.path, SchemaFacts(declared, is_inferred=False) if declared and is_untyped else facts))
    if not found:
        return tuple(entries)
    schema = merge_schemas(found)
    return tuple(_with_rows(folder, entry, schema, limits) if entry in data else entry for entry in entries)


def _with_rows(folder: Path, entry: FileEntry, schema: pa.Schema, limits: ReadLimits) -> FileEntry:
    item = WorkItem(entry.path, str(folder / entry.path), str(kind_of(entry.path)), "", entry.size_bytes, entry.sha256)
    tree = TreeBuilder()
    with read_verified(item.uri, expected_sha256=entry.sha256, limits=limits) as spooled:
        for decoded in decode(item.data_format, spooled.file, schema, limits, name=entry.path):
            tree.extend(leaf_hashes(sample_digests(decoded.batch)))
    return replace(entry, rows=tree.size, row_tree_root=tree.root().hex(), schema_id=schema_id(schema).hex())
