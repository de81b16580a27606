"""Which class each column of pred_probs stands for, and which column each label means."""

from collections.abc import Collection, Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from millcert.errors import InvalidSampleError


def classes_of(found: Collection[str], width: int) -> tuple[str, ...]:
    """Return the class of each column of pred_probs, from the labels that were found, at least one.

    As many labels as columns: the labels in order (`in_order`). Fewer: each label must be the number of its column.

    Raises:
        InvalidSampleError: neither holds.
    """
    labels = in_order(found)
    if len(labels) == width:
        return labels
    if len(labels) < width and all(is_number(label) and 0 <= int(label) < width for label in labels):
        return tuple(str(column) for column in range(width))
    raise InvalidSampleError(
        f"There are {len(labels)} labels and {width} columns of pred_probs.",
        hint="Give `classes` in the order of the columns.",
        column="pred_probs",
    )


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Return labels sorted; by number where each is an integer in plain decimal (no leading zeros, no plus)."""
    found = sorted(labels)
    return tuple(sorted(found, key=int)) if all(is_number(label) for label in found) else tuple(found)


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


def is_number(label: str) -> bool:
    """Return whether a label is an integer in plain decimal: no leading zeros, no plus, 18 digits at most."""
    digits = label.removeprefix("-")
    is_plain = digits.isascii() and digits.isdigit() and len(digits) <= 18
    return is_plain and label != "-0" and (digits == "0" or not digits.startswith("0"))
