"""Which class each column of pred_probs stands for, and which column each label means."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.checks import columns
from millcert.errors import InvalidSampleError


class LabelCount(NamedTuple):
    """The samples given one label, and the width of their pred_probs."""

    samples: int
    width: int


def count_labels(batch: pa.RecordBatch) -> dict[str, LabelCount]:
    """Return the labels of a batch with their counts.

    Raises:
        MissingColumnError: the batch lacks label or pred_probs.
        InvalidSampleError: a row of pred_probs is no distribution.
    """
    width = columns.probabilities(batch).shape[1]
    counted = columns.strings(batch, "label").value_counts()
    pairs = zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True)
    return {label: LabelCount(samples, width) for label, samples in pairs}


def merge_counts(parts: Iterable[LabelCount]) -> LabelCount:
    """Return the count of all parts of one label.

    Raises:
        InvalidSampleError: pred_probs has different widths.
    """
    found = list(parts)
    return LabelCount(sum(part.samples for part in found), _one_width(part.width for part in found))


def classes_of(counts: Mapping[str, LabelCount]) -> tuple[str, ...]:
    """Return the class of each column of pred_probs, from the labels that were found, at least one.

    As many labels as columns: the labels in order (`in_order`). Fewer: each label must be the number of its column.

    Raises:
        InvalidSampleError: neither holds, or pred_probs has different widths.
    """
    labels = in_order(counts)
    width = _one_width(part.width for part in counts.values())
    if len(labels) == width:
        return labels
    if len(labels) < width and all(_is_integer(label) and 0 <= int(label) < width for label in labels):
        return tuple(str(column) for column in range(width))
    raise InvalidSampleError(
        f"There are {len(labels)} labels and {width} columns of pred_probs.",
        hint="Give `classes` in the order of the columns.",
        column="pred_probs",
    )


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Return labels sorted; by number where each is an integer in plain decimal (no leading zeros, no plus)."""
    found = sorted(labels)
    return tuple(sorted(found, key=int)) if all(_is_integer(label) for label in found) else tuple(found)


def codes_of(labels: pa.StringArray, classes: tuple[str, ...]) -> np.ndarray:
    """Return the position of each label in `classes`, int64 (n,).

    Raises:
        InvalidSampleError: a label is not one of the classes.
    """
    positions = pc.index_in(labels, value_set=pa.array(classes, type=pa.string()))
    if positions.null_count:
        stranger = labels.filter(pc.is_null(positions))[0].as_py()
        raise InvalidSampleError(
            f"Label {stranger[:100]!r} is not one of the {len(classes)} classes.",
            hint="Name every class in `classes`, or none.",
            column="label",
        )
    codes: np.ndarray = positions.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def _one_width(widths: Iterable[int]) -> int:
    found = sorted(set(widths))
    if len(found) > 1:
        raise InvalidSampleError(
            f"pred_probs has {', '.join(map(str, found))} columns in different batches; expected one width.",
            column="pred_probs",
        )
    return found[0]


def _is_integer(label: str) -> bool:
    digits = label.removeprefix("-")
    is_plain = digits.isascii() and digits.isdigit() and len(digits) <= 18
    return is_plain and label != "-0" and (digits == "0" or not digits.startswith("0"))
