"""What a finding of `label_noise` suggests: the likelier label, both probabilities, trusted samples nearby."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from millcert.checks import columns
from millcert.checks.base import Suggestions
from millcert.checks.confident_neighbours import (
    ConfidentNeighbours,
    ConfidentSamples,
    confident_parts,
    no_neighbours,
)
from millcert.checks.label_filter import Rows
from millcert.checks.label_noise_views import View, view_rows
from millcert.checks.label_quality import self_confidence


def trusted_parts(
    batch: pa.RecordBatch, rows: Rows, guess: np.ndarray, view: View | None, classes: int, seed: int
) -> Mapping[str, ConfidentSamples]:
    """Return some samples that are confidently of the class they were given; none without a view.

    Args:
        batch: with the view's column.
        rows: of the batch.
        guess: int64 (n,), `confident_class` of the rows.
        view: where neighbours are looked for.
        classes: K.
        seed: of the view, and of the hashes that choose samples.
    """
    if view is None:
        return {}
    sure = np.flatnonzero((guess == rows.label) & (rows.top == rows.label))
    position = rows.position[sure]
    found = view_rows(batch, view, seed)[position]
    return confident_parts(columns.digests(batch)[position], rows.label[sure], found, classes, seed)


def suggestions_of(
    batch: pa.RecordBatch,
    rows: Rows,
    neighbours: ConfidentNeighbours | None,
    view: View | None,
    classes: tuple[str, ...],
    seed: int,
) -> Suggestions:
    """Return what is suggested for flagged samples.

    Args:
        batch: with the view's column.
        rows: the flagged ones of the batch.
        neighbours: trusted samples.
        view: as in `trusted_parts`.
        classes: the columns of the probabilities.
        seed: of the view.

    Cost: two gathers a row, and with neighbours as many products as there are numbers kept.
    """
    label = pa.array(classes, pa.string()).take(pa.array(rows.top, mask=rows.top == rows.label))
    given, likeliest = self_confidence(rows.label, rows.pred_probs), self_confidence(rows.top, rows.pred_probs)
    if neighbours is None or view is None:
        return Suggestions(label, given, likeliest, no_neighbours(len(rows.label)))
    # Hashing texts that nobody will look at costs more than all else; other views are looked at whole for faults.
    taken = batch.take(pa.array(rows.position)) if view == "text" else batch
    found = view_rows(taken, view, seed)
    flagged = found if view == "text" else found[rows.position]
    return Suggestions(label, given, likeliest, neighbours.nearest(flagged, classes))
