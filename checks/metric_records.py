r"""Which combinations of several columns stand in more than one row: distinct records, kept as distinct values are.

A record's key is, for each column, b"\x00" for null, else b"\x01" and the value: numbers, dates and timestamps as 8
bytes, texts as 4 bytes of length and UTF-8. Two keys are equal exactly where pandas finds the rows duplicates.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks import metric_distinct as distinct
from millcert.checks.metric_columns import BatchView, ColumnView, Family, family
from millcert.checks.metric_counting import Counting
from millcert.checks.metric_pairs import passed_over
from millcert.checks.metric_tally import REPEATED, Wanted

#: Families that a record may hold.
RECORD_FAMILIES: frozenset[Family] = frozenset({"bool", "int", "float", "string", "date", "timestamp"})


@dataclass(frozen=True)
class CountRecords(Counting):
    """The distinct records of some columns."""

    columns: tuple[str, ...]
    ignore_row_if: str
    keep: int
    wanted: Wanted = REPEATED

    def measure(self, view: BatchView) -> Iterator[tuple[str, distinct.Distinct]]:
        """See `Kernel`."""
        columns = [view.column(name) for name in self.columns]
        considered = np.flatnonzero(~passed_over(columns, self.ignore_row_if))
        keys = encode_records(columns).take(pa.array(considered))
        part = distinct.measure(keys, view.file, view.rows[considered], self.keep)
        if part:
            yield "", part


def encode_records(columns: Sequence[ColumnView]) -> pa.Array:
    """Return the key of each row, binary (n,)."""
    pieces = [piece for column in columns for piece in _pieces(column)]
    return pc.binary_join_element_wise(*pieces, pa.scalar(b"", pa.binary()))


def decode_record(key: bytes, types: Sequence[pa.DataType]) -> list[Any]:
    """Return the values of a record, as pandas gives them, or "sha256:<hex>" for each where the key was too long."""
    if distinct.is_long(key):
        return [f"sha256:{key[len(distinct.LONG_PREFIX) :].hex()}"] * len(types)
    values = []
    at = 0
    for data_type in types:
        kind = family(data_type)
        if key[at] == 0:
            content = None
            at += 1
        elif kind == "string":
            (length,) = struct.unpack_from("<I", key, at + 1)
            content = key[at + 5 : at + 5 + length].decode()
            at += 5 + length
        else:
            content = struct.unpack_from("<d" if kind == "float" else "<q", key, at + 1)[0]
            at += 9
        values.append(_as_pandas(content, data_type))
    return values


def _as_pandas(content: Any, data_type: pa.DataType) -> Any:
    kind = family(data_type)
    if kind == "bool" and content is not None:
        return bool(content)
    if kind == "int" and content is not None:
        return content % 2**64 if pa.types.is_uint64(data_type) else content
    if kind in ("date", "timestamp"):
        ticks = pa.array([content], pa.int32() if kind == "date" else pa.int64())
        return ticks.cast(data_type).to_pandas()[0]
    return pa.array([content], pa.string() if kind == "string" else pa.float64()).to_pandas()[0]


def _pieces(column: ColumnView) -> list[pa.Array]:
    n = len(column.array)
    kind = family(column.array.type)
    if kind == "string":
        texts = column.array.cast(pa.binary()).fill_null(b"")
        lengths = pc.binary_length(texts).to_numpy(zero_copy_only=False).astype("<u4")
        head = np.zeros((n, 5), dtype=np.uint8)
        head[:, 0] = 1
        head[:, 1:] = lengths.view(np.uint8).reshape(n, 4)
        return [_joined(head, column.is_null), texts]
    words = np.zeros(n, dtype="<f8" if kind == "float" else "<i8")
    present = column.present_floats + 0.0 if kind == "float" else column.present_ticks  # -0.0 becomes 0.0
    words[column.present_at] = present.astype(words.dtype)
    body = np.ones((n, 9), dtype=np.uint8)
    body[:, 1:] = words.view(np.uint8).reshape(n, 8)
    return [_joined(body, column.is_null)]


def _joined(rows: np.ndarray, is_null: np.ndarray) -> pa.Array:
    """Return byte rows as a binary array, one zero byte where null."""
    width = rows.shape[1]
    fixed = pa.Array.from_buffers(pa.binary(width), len(rows), [None, pa.py_buffer(rows.tobytes())])
    return pc.if_else(pa.array(is_null), pa.scalar(b"\x00", pa.binary()), fixed.cast(pa.binary()))
