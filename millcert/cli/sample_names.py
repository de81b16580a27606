"""From what an auditor has in hand, a text, a row or its place, to what names it."""

from pathlib import Path
from typing import TYPE_CHECKING

from millcert.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

#: A question about more distinct rows than that is one for a script.
MAX_DIGESTS = 100

_MAX_RECORD_BYTES = 16 * 1024 * 1024


def digest_of_record(record: str, data: str | None) -> bytes:
    """Return the sample digest of a row that is given as a JSON object.

    Args:
        record: the row, all of its columns.
        data: files whose column types the row has (patterns as for `millcert vet`); None infers them from the row, as
            for a JSONL file that has no other row.

    Raises:
        UsageError: it is no JSON object, or not one row of those types.
        HostileDataError, StoreError: the files cannot be read.
    """
    import io

    from millcert.checks.sample_digest import sample_digests
    from millcert.cli.dataset import open_dataset
    from millcert.pipelines.formats import ReadLimits, decode, read_schema

    line = record.encode()
    if len(line) > _MAX_RECORD_BYTES:
        raise UsageError("The row is too long.", hint="Ask by its place: --row FILE:ROW, or by --digest.")
    limits, name = ReadLimits(), "--record"
    one_line = b" ".join(line.splitlines()) + b"\n"  # a line break cannot stand within a JSON text
    if data is None:
        schema = read_schema("jsonl", io.BytesIO(one_line), limits, name=name).schema
    else:
        schema = open_dataset([data], None).schema
    decoded = list(decode("jsonl", io.BytesIO(one_line), schema, limits, name=name))
    wrong = [fault for part in decoded for fault in part.malformed]
    batches = [part.batch for part in decoded if part.batch.num_rows]
    if wrong or sum(batch.num_rows for batch in batches) != 1:
        why = f": {wrong[0].reason}, {wrong[0].detail}" if wrong else ""
        raise UsageError(
            f"--record is not one row{why}.", hint="Give a JSON object with every column of the row, as it was vetted."
        )
    return sample_digests(batches[0])[0].tobytes()


def digests_of_text(text: str, data: str) -> list[bytes]:
    """Return the digests of the rows of some files in which a column is exactly this text, each once.

    Raises:
        UsageError: no row has it, or more distinct rows than `MAX_DIGESTS` do.
        HostileDataError, StoreError: the files cannot be read.

    Cost: two reads of the files; a digest for each row that matches.
    """
    import pyarrow as pa

    from millcert.checks.sample_digest import sample_digests
    from millcert.cli.dataset import open_dataset

    found: dict[bytes, None] = {}
    for _, batch in open_dataset([data], None).read():
        mask = _rows_with(batch, text)
        if mask is not None:
            matching = pa.RecordBatch.from_arrays(
                [column.filter(mask) for column in batch.columns], schema=batch.schema
            )
            found |= dict.fromkeys(one.tobytes() for one in sample_digests(matching))
    if not found:
        raise UsageError(
            f"No row of {data} has a column that is exactly this text.",
            hint="Give the data as it was vetted; or the whole row: --record JSON.",
        )
    if len(found) > MAX_DIGESTS:
        raise UsageError(
            f"{len(found):,} different rows have this text.", hint="Ask for one of them: --row FILE:ROW or --digest."
        )
    return list(found)


def only_one(given: dict[str, object]) -> None:
    """Refuse a question that names its sample by none or several of these options."""
    if sum(value is not None for value in given.values()) != 1:
        raise UsageError(f"Name the sample by one of {', '.join(given)}.", hint="Give exactly one of them.")


def read_text(value: str) -> str:
    """Return the text of an option; `@FILE` stands for what is in the file, so that it is in no shell history."""
    from millcert.cli.files import read_bounded

    if not value.startswith("@"):
        return value
    data = read_bounded(Path(value[1:]), _MAX_RECORD_BYTES, what="text", hint="Check the path after @.")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{value[1:]} is not UTF-8.", hint="Give a text file.") from error


def _rows_with(batch: "pa.RecordBatch", text: str) -> "pa.Array | None":
    """Return which rows have a string column with exactly this text; None where no row does."""
    import pyarrow as pa
    import pyarrow.compute as pc

    mask = None
    for column in batch.columns:
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            same = pc.fill_null(pc.equal(column.cast(pa.large_string()), pa.scalar(text, pa.large_string())), False)
            mask = same if mask is None else pc.or_(mask, same)
    return None if mask is None or not pc.any(mask).as_py() else mask


def parse_place(text: str) -> tuple[str, int]:
    """Return (file, row) of a place such as `north/a.jsonl:3`; the row counts from 0.

    Raises:
        UsageError: it is none.
    """
    file, colon, row = text.rpartition(":")
    if not colon or not file or not (row.isascii() and row.isdigit()) or len(row) > 18:
        raise UsageError(f"Expected FILE:ROW such as north/a.jsonl:3, got {text[:200]!r}.", hint="Rows count from 0.")
    return file, int(row)
