"""Typed views of a batch's columns, by role.

The reader has already put aside rows whose role columns are null, not finite or of another width (they are malformed),
so a check may rely on what is documented here; these views still refuse anything else, for callers that bring their
own data.

| role | Arrow type | meaning |
|---|---|---|
| label | string | the given class, in canonical text: integers in decimal, booleans as true/false |
| source | string | the source that the policy names for the sample |
| annotator | string | who gave the label, or the batch of labels it came in |
| split | string | the part that the data set itself says the sample is for, such as train or test |
| text | string | the sample's text; several columns are joined by line breaks |
| embedding_self | fixed_size_list<float32>[d] | from a model trained on this very data |
| embedding_external | fixed_size_list<float32>[d] | from a model that never saw this data |
| pred_probs | fixed_size_list<float64>[K] | out-of-sample class probabilities, rows sum to 1 |
| features | fixed_size_list<float64>[d] | raw pixels or table values (text as hashes), no embedding |
| sample_digest | fixed_size_binary[32] | the canonical digest of the sample |
"""

import numpy as np
import pyarrow as pa

from millcert.checks.base import Role
from millcert.errors import InvalidSampleError, MissingColumnError

#: How far a row of probabilities may sum from 1: float32 rounding over 10,000 classes stays below it.
PROBABILITY_SUM_TOLERANCE = 1e-3
#: Values looked at together for infinities: what the look leaves behind then stays in the processor's cache.
_CACHED_VALUES = 2**18
#: Values looked at several times over while they are in the cache next to the processor's core: 256 KiB.
_NEAR_VALUES = 2**15


def strings(batch: pa.RecordBatch, role: Role) -> pa.StringArray:
    """Return a text role ("label", "source", "annotator", "split", "text") as a string array without nulls, shape (n,).

    Raises:
        MissingColumnError: there is no such column, or it is not text.
        InvalidSampleError: a value is null.
    """
    column = _column(batch, role)
    if not pa.types.is_string(column.type):
        raise MissingColumnError(f"Column {role!r} must be a string column, got {column.type}.", column=role)
    _refuse_nulls(column, role)
    return column


def matrix(batch: pa.RecordBatch, role: Role) -> np.ndarray:
    """Return an embedding role as float32, shape (n, d), finite; a view of the Arrow buffer where that is possible.

    Raises:
        MissingColumnError: there is no such column, or it is not a fixed-size list of floats.
        InvalidSampleError: a value is null, NaN or infinite.
    """
    return _fixed_size_list(batch, role, np.dtype(np.float32))


def unread_matrix(batch: pa.RecordBatch, role: Role) -> np.ndarray:
    """Return what `matrix` does without a look at the values: for callers that quantise every row, which refuses them.

    Raises:
        MissingColumnError: there is no such column, or it is not a fixed-size list of floats.
        InvalidSampleError: a value is null.
    """
    return _floats(batch, role, np.dtype(np.float32))


def probabilities(batch: pa.RecordBatch) -> np.ndarray:
    """Return `pred_probs` as float64, shape (n, K), values in [0, 1], rows summing to 1 within 1e-3.

    Raises:
        MissingColumnError: there is no such column, or it is not a fixed-size list of floats.
        InvalidSampleError: a row is not a probability distribution.
    """
    return probabilities_and_top(batch)[0]


def probabilities_and_top(batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """Return `probabilities`, and each row's most probable class, int64 (n,), the first of equals."""
    values = _floats(batch, "pred_probs", np.dtype(np.float64))
    top = np.zeros(len(values), dtype=np.int64)
    step = max(1, _NEAR_VALUES // max(1, values.shape[1]))
    for start in range(0, len(values), step):
        part, most = values[start : start + step], top[start : start + step]
        if values.shape[1]:
            part.argmax(axis=1, out=most)
        # A NaN makes each comparison false, and an infinity the sum, so one look at the bounds finds those too.
        with np.errstate(invalid="ignore"):
            off = part.sum(axis=1) - 1  # row by row: a matrix product could depend on the batch
        highest = part[np.arange(len(part)), most].max() if values.shape[1] else 0.0
        if not (part.min(initial=0.0) >= 0 and highest <= 1 and np.abs(off).max() <= PROBABILITY_SUM_TOLERANCE):
            _refuse_infinite(values, "pred_probs")
            raise InvalidSampleError(
                "Each row of pred_probs must have values in [0, 1] that sum to 1.",
                hint="Give out-of-sample probabilities, not logits.",
                column="pred_probs",
            )
    return values, top


def features(batch: pa.RecordBatch) -> np.ndarray:
    """Return `features` as float64, shape (n, d), finite: the very numbers of the data.

    Raises:
        MissingColumnError: there is no such column, or it is not a fixed-size list of floats.
        InvalidSampleError: a value is null, NaN or infinite.
    """
    return _fixed_size_list(batch, "features", np.dtype(np.float64))


def digests(batch: pa.RecordBatch) -> np.ndarray:
    """Return `sample_digest` as uint8, shape (n, 32)."""
    column = _column(batch, "sample_digest")
    if column.type != pa.binary(32):
        raise MissingColumnError(f"Column 'sample_digest' must be fixed_size_binary[32], got {column.type}.")
    _refuse_nulls(column, "sample_digest")
    start = column.offset * 32
    flat = np.frombuffer(column.buffers()[1], dtype=np.uint8, count=len(column) * 32, offset=start)
    return flat.reshape(len(column), 32)


def _column(batch: pa.RecordBatch, role: Role) -> pa.Array:
    position = batch.schema.get_field_index(role)
    if position < 0:
        raise MissingColumnError(
            f"The check needs a column for {role!r}; the batch has {', '.join(batch.schema.names) or 'none'}.",
            hint=f"Name it in the policy: dataset.columns.{role}.",
            column=role,
        )
    return batch.column(position)


def _refuse_nulls(column: pa.Array, role: Role) -> None:
    if column.null_count:
        raise InvalidSampleError(f"Column {role!r} has {column.null_count} nulls; expected none.", column=role)


def _fixed_size_list(batch: pa.RecordBatch, role: Role, dtype: np.dtype) -> np.ndarray:
    values = _floats(batch, role, dtype)
    _refuse_infinite(values, role)
    return values


def _refuse_infinite(values: np.ndarray, role: Role) -> None:
    flat = values.reshape(-1)
    parts = (flat[start : start + _CACHED_VALUES] for start in range(0, len(flat), _CACHED_VALUES))
    if not all(np.isfinite(part).all() for part in parts):
        raise InvalidSampleError(f"Column {role!r} has values that are not finite.", column=role)


def _floats(batch: pa.RecordBatch, role: Role, dtype: np.dtype) -> np.ndarray:
    column = _column(batch, role)
    if not pa.types.is_fixed_size_list(column.type) or not pa.types.is_floating(column.type.value_type):
        raise MissingColumnError(
            f"Column {role!r} must be a fixed-size list of floats, got {column.type}.", column=role
        )
    _refuse_nulls(column, role)
    width = column.type.list_size
    flat = column.flatten()
    _refuse_nulls(flat, role)
    values: np.ndarray = flat.to_numpy(zero_copy_only=False).astype(dtype, copy=False).reshape(len(column), width)
    return values
