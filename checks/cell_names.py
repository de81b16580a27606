"""A cell is one source's samples of one class: its name in accumulators, scores and evidence, and its rows."""

import numpy as np
import pyarrow as pa

from millcert.checks.label_groups import rows_by_text


def cell_name(source: str, label: str) -> str:
    r"""Return "source/class"; a slash in the class is written `\/`, a backslash `\\`, so no two cells share a name."""
    escaped = label.replace("\\", "\\\\").replace("/", "\\/")
    return f"{source}/{escaped}"


def rows_by_cell(sources: pa.StringArray, labels: pa.StringArray) -> list[tuple[str, str, np.ndarray]]:
    """Return the cells of a batch, sorted: source, label and row numbers, int64 ascending.

    Args:
        sources: without nulls.
        labels: without nulls, of the same length.
    """
    cells = []
    for source, places in rows_by_text(sources):
        within = labels.take(pa.array(places))
        cells += [(source, label, places[rows]) for label, rows in rows_by_text(within)]
    return cells
