"""What the commands that read a data set without a Beam job share: rows in one schema, and a file written whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from millcert.cli.files import replace_whole
from millcert.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from millcert.pipelines.formats import Decoded, ReadLimits

#: Rows handed out at once, unless they are large: what is computed for each batch then costs little a row.
CHUNK_ROWS = 524_288
CHUNK_BYTES = 64 << 20

_MAX_SCHEMA_BYTES = 16 << 20


@dataclass
class Dataset:
    """The data files of some arguments, decoded to one schema.

    files: (name, URI, SHA-256 as hex) of each data file, sorted by name; later reads refuse other bytes.
    malformed: records that could not be decoded in the last complete reading.
    """

    files: "tuple[tuple[str, str, str], ...]"
    schema: "pa.Schema"
    limits: "ReadLimits"
    malformed: int = 0

    def read(self) -> "Iterator[tuple[str, pa.RecordBatch]]":
        """Yield (file name, batch) over all files.

        Raises:
            DigestMismatchError: a file is no longer what it was.
            HostileDataError, StoreError: as for reading.
        """
        for name, batch, _ in self.read_rows():
            yield name, batch

    def read_rows(self) -> "Iterator[tuple[str, pa.RecordBatch, np.ndarray]]":
        """Yield (file name, batch, rows) over all files; rows, int64 (n,), are the records' indices in the file.

        Raises:
            DigestMismatchError, HostileDataError, StoreError: as `read`.
        """
        from millcert.pipelines.formats import HEAD_BYTES, decode, detect_format
        from millcert.pipelines.spool import read_verified

        self.malformed = 0
        for name, uri, digest in self.files:
            with read_verified(uri, expected_sha256=digest, limits=self.limits) as spooled:
                kind = detect_format(name, spooled.file.read(HEAD_BYTES))
                waiting: list[Decoded] = []
                for decoded in decode(kind, spooled.file, self.schema, self.limits, name=name):
                    self.malformed += len(decoded.malformed)
                    waiting.append(decoded)
                    if (
                        sum(one.batch.num_rows for one in waiting) >= CHUNK_ROWS
                        or sum(one.batch.nbytes for one in waiting) >= CHUNK_BYTES
                    ):
                        yield name, *_joined(waiting)
                        waiting = []
                if waiting:
                    yield name, *_joined(waiting)


def _joined(waiting: "Sequence[Decoded]") -> "tuple[pa.RecordBatch, np.ndarray]":
    import numpy as np
    import pyarrow as pa

    return pa.concat_batches([one.batch for one in waiting]), np.concatenate([one.rows for one in waiting])


def open_dataset(patterns: Sequence[str], schema: Path | None) -> Dataset:
    """Return the data set that files, folders or globs name.

    Args:
        patterns: as for `millcert vet`.
        schema: a schema file for formats without types of their own; None to infer them from all values.

    Raises:
        UsageError, PolicyError: there are no data, files disagree, or the schema file is none.
        HostileDataError, StoreError: as for reading.

    Cost: one read of every file.
    """
    from millcert.pipelines.formats import (
        HEAD_BYTES,
        ReadLimits,
        SchemaFacts,
        detect_format,
        merge_schemas,
        read_schema,
        schema_from_json,
    )
    from millcert.pipelines.spool import match_files, read_verified

    limits = ReadLimits()
    declared = None if schema is None else schema_from_json(read_bounded(schema, _MAX_SCHEMA_BYTES))
    files, found = [], list[tuple[str, SchemaFacts]]()
    for file in match_files(patterns, limits=limits):
        if file.format == "auxiliary":
            continue
        with read_verified(file.uri, expected_sha256=None, limits=limits) as spooled:
            kind = detect_format(file.name, spooled.file.read(HEAD_BYTES))
            facts = read_schema(kind, spooled.file, limits, name=file.name)
            files.append((file.name, file.uri, spooled.sha256))
        is_untyped = declared is not None and facts.is_inferred
        found.append((file.name, SchemaFacts(declared, is_inferred=False) if is_untyped else facts))
    return Dataset(tuple(files), merge_schemas(found), limits)


def source_of_file(name: str) -> str:
    """Return the source that a file is of where no column says so: its first folder, "" for a file in none."""
    return name.split("/", maxsplit=1)[0] if "/" in name else ""


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return a file's bytes.

    Raises:
        UsageError: it has more than `max_bytes`.
        OSError: it cannot be read (the root explains it).
    """
    with path.open("rb") as stream:
        data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise UsageError(f"{path} has more than {max_bytes:,} bytes.", path=str(path))
    return data


def write_whole(target: Path, data: bytes, *, is_replaced: bool) -> None:
    """Write all or nothing; the same bytes again are no change.

    Raises:
        UsageError: there is another file already, and it is not to be replaced; or its folder is not there.
    """
    if not target.parent.is_dir():
        raise UsageError(f"There is no folder {target.parent} to write {target.name} in.", hint="Make it first.")
    try:
        old = read_bounded(target, len(data)) if target.exists() else None
    except UsageError:
        old = b""
    if old == data:
        return
    if old is not None and not is_replaced:
        raise UsageError(f"There is another file at {target}.", hint="Use --replace to overwrite it.", path=str(target))
    replace_whole(target, data)
