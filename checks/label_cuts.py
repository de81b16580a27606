"""Pass "cutoffs" of `label_noise`: where each cell of given and likely class is cut, block of classes by block.

A block is a run of given classes whose cells take no more than a bounded number of samples together, or one class: few
blocks make one table of a batch, and many keep every part small enough to be sent. Which classes a block has follows
from the limits alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from millcert.checks.class_cells import ClassCells
from millcert.checks.label_filter import LabelFilter, Rows, highest_by_class
from millcert.checks.label_noise_model import LabelNoiseModel
from millcert.checks.label_quality import self_confidence
from millcert.checks.margin_cutoff import Cutoffs, LowestValues
from millcert.errors import InternalError

#: Samples that the cells of one block take, but for a class that takes more alone: 1.9 MB of records.
BLOCK_SAMPLES = 2**16


class Block(NamedTuple):
    """A run of cells that are accumulated together.

    key: the group of the accumulator.
    first, stop: the cells, as places among the limits.
    """

    key: str
    first: int
    stop: int


def blocks_of(limits: ClassCells) -> tuple[Block, ...]:
    """Return the blocks of all cells, in order."""
    total = limits.row_sums()
    number = ((np.cumsum(total) - total) // BLOCK_SAMPLES)[limits.row]
    present, first = np.unique(number, return_index=True)
    stops = np.append(first, len(number))[1:]
    return tuple(
        Block(str(key), start, stop)
        for key, start, stop in zip(present.tolist(), first.tolist(), stops.tolist(), strict=True)
    )


def add_lowest(
    acc: Mapping[str, LowestValues], rows: Rows, limits: ClassCells, bounds: np.ndarray, label_filter: LabelFilter
) -> dict[str, LowestValues]:
    """Return the accumulator of the pass with samples added: block -> its lowest values.

    Args:
        acc: of the samples so far.
        rows: of a batch.
        limits: how many each cell takes.
        bounds: float64 (m,), `LabelFilter.first_bounds`.
        label_filter: one that ranks.
    """
    if not len(limits.code) or not len(rows.label):
        return dict(acc)
    if label_filter.ranks_all_classes_together:
        return _add_together(acc, rows, limits, label_filter)
    blocks, grown, bound = blocks_of(limits), dict(acc), bounds.copy()
    for key, first, stop in blocks:
        if key in grown:
            bound[first:stop] = grown[key].bound
    highest = highest_by_class(limits, bound)
    near = rows.chosen(np.flatnonzero(label_filter.lowest_value(rows) <= highest[rows.label]))
    given, can_be_flagged = self_confidence(near.label, near.pred_probs), ~near.agrees()
    for pairs in label_filter.pairs(near, limits, highest):
        kept = np.flatnonzero(pairs.value <= bound[pairs.entry])
        row, entry = pairs.row[kept], pairs.entry[kept]
        for key, first, stop, chosen in _by_block(blocks, entry):
            part = grown.get(key, LowestValues.zero(limits.value[first:stop], bounds[first:stop]))
            at = row[chosen]
            value = pairs.value[kept][chosen]
            grown[key] = part.add(entry[chosen] - first, value, near.tie[at], given[at], can_be_flagged[at])
    return grown


def _by_block(blocks: tuple[Block, ...], entry: np.ndarray) -> Iterator[tuple[str, int, int, np.ndarray | slice]]:
    if len(blocks) == 1:
        yield (*blocks[0], slice(None))
        return
    place = np.searchsorted([block.first for block in blocks], entry, side="right") - 1
    for index in np.unique(place).tolist():
        yield (*blocks[index], np.flatnonzero(place == index))


def _add_together(
    acc: Mapping[str, LowestValues], rows: Rows, limits: ClassCells, label_filter: LabelFilter
) -> dict[str, LowestValues]:
    """Return the lowest values of the one cell for all samples, and after it each class's lowest alone."""
    whole = np.append(limits.value, np.ones(limits.width, dtype=np.int64))
    part, quality, can_be_flagged = acc.get("0", LowestValues.zero(whole)), label_filter.quality(rows), ~rows.agrees()
    for cell in (np.zeros(len(quality), dtype=np.int64), 1 + rows.label):
        part = part.add(cell, quality, rows.tie, quality, can_be_flagged)
    return {**acc, "0": part}


def fit_cutoffs(
    acc: Mapping[str, LowestValues], model: LabelNoiseModel, label_filter: LabelFilter, *, bars_are_cuts: bool
) -> LabelNoiseModel:
    """Return the model after the pass.

    Args:
        acc: block -> its lowest values.
        model: after pass "joint".
        label_filter: one that ranks.
        bars_are_cuts: whether the score is the filter's own, so that a class's cut is the bar for it.

    Raises:
        InternalError: the model is of another pass.
    """
    limits = model.limits
    if limits is None or model.bars is None:
        raise InternalError("label_noise was given a model of an earlier pass.")
    bars, is_suspicious = model.bars.copy(), np.zeros(limits.width, dtype=np.bool_)
    cuts = Cutoffs.none(len(limits.code))
    if label_filter.ranks_all_classes_together:
        if "0" in acc:
            lowest = acc["0"].cutoffs()
            cuts = Cutoffs(lowest.value[:1], lowest.tie[:1])
            everywhere = np.zeros(limits.width, dtype=np.int64)
            has_samples = lowest.value[1:] > -np.inf
            is_suspicious = has_samples & cuts.reached(everywhere, lowest.value[1:], lowest.tie[1:])
        bars = np.full(limits.width, 1 - cuts.value[0]) if bars_are_cuts and len(cuts.value) else bars
        return replace(model, stage="cutoffs", cuts=cuts, is_suspicious=is_suspicious, bars=bars)
    for key, first, stop in blocks_of(limits):
        if key in acc:
            found = acc[key].cutoffs()
            cuts.value[first:stop], cuts.tie[first:stop] = found.value, found.tie
    own = np.flatnonzero(limits.row == limits.column)
    for key, first, _ in blocks_of(limits):
        if key in acc:
            is_suspicious |= _has_flags(acc[key].records(), first, limits, cuts, label_filter)
    if bars_are_cuts:
        bars[limits.row[own]] = 1 - cuts.value[own]
    return replace(model, stage="cutoffs", cuts=cuts, is_suspicious=is_suspicious, bars=bars)


def _has_flags(
    table: np.ndarray, first: int, limits: ClassCells, cuts: Cutoffs, label_filter: LabelFilter
) -> np.ndarray:
    """Return which classes have a sample that will be flagged behind the records of a block, bool (K,)."""
    entry = table["cell"].astype(np.int64) + first
    flagged = cuts.reached(entry, table["value"], table["tie"]) & table["can_be_flagged"]
    given = limits.row[entry]
    if label_filter.filter_by == "both":
        own = np.searchsorted(limits.code, given * (limits.width + 1))
        has_own = limits.code[np.minimum(own, len(limits.code) - 1)] == given * (limits.width + 1)
        own = np.where(has_own, own, 0)
        flagged &= has_own & (own != entry) & cuts.reached(own, table["given"], table["tie"])
    found = np.zeros(limits.width, dtype=np.bool_)
    found[given[flagged]] = True
    return found
