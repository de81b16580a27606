"""The last read: score every sample with every fitted check, and split the file by what the checks said.

A file is one unit: it is decoded once to score, and a second time, from the same verified bytes, only if something of
it is held back. If nothing is, the admitted file is the signed file, byte for byte. What a file yields is written
under names made of the file's own name, so a retry overwrites identical bytes:
  publish/admitted/NAME                 what may be trained on
  publish/quarantine/NAME.parquet       samples held back, each with its reasons
  parts/findings/ID.parquet             one row a flag (FINDINGS_SCHEMA)
  parts/expectation_rows/ID.parquet     one row a sample that fails an expectation (expectation_rows.py)
  parts/malformed/ID.parquet            one row a malformed record (MALFORMED_SCHEMA)
  parts/reported/ID.parquet             samples that were flagged and not held back, for the report
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from millcert.checks.base import Scores
from millcert.checks.fusion import Cell, Panel, signal_of
from millcert.checks.sample_digest import sample_digests
from millcert.errors import InternalError
from millcert.pipelines.dataset import DatasetFacts
from millcert.pipelines.digest_sidecar import DigestSource
from millcert.pipelines.expectation_rows import KIND, Failing, FileRows
from millcert.pipelines.formats import Decoded
from millcert.pipelines.fuse import add_votes, cells_of
from millcert.pipelines.models import Models
from millcert.pipelines.output import PartWriter, copy_spooled, part_name, write_admitted
from millcert.pipelines.overriding import action_of, release
from millcert.pipelines.plan import PlannedCheck, VetPlan
from millcert.pipelines.progress import ProgressReporter
from millcert.pipelines.read import digest_array, leaf_hashes, role_batch, sample_batch
from millcert.pipelines.records import CheckFailure, FailingRows, FileOutcome, WorkItem
from millcert.pipelines.score_schemas import (
    FINDINGS_SCHEMA,
    MALFORMED_SCHEMA,
    QUARANTINE_FIELDS,
    REASONS_TYPE,
    SUGGESTION_FIELDS,
)
from millcert.pipelines.spool import Spooled
from millcert.pipelines.view_rows import ViewRows
from millcert.provenance.merkle import TreeBuilder

#: Scores of any sign and size are counted in bins that are even around 0 and a fixed ratio apart far from it: equal
#: steps of asinh(score / SCORE_UNIT), BINS_A_STEP of them to a factor of e. The ends take what lies beyond.
SCORE_UNIT = 0.01
BINS_A_STEP = 8
LOWEST_BIN, HIGHEST_BIN = -200, 200


def score_file(
    plan: VetPlan,
    item: WorkItem,
    spooled: Spooled,
    source: DigestSource,
    dataset: DatasetFacts,
    models: Models,
    progress: ProgressReporter,
    panel: Panel,
    failing: FileRows,
    views: ViewRows | None = None,
) -> FileOutcome:
    """Score, write and count one file."""
    with ExitStack() as stack:
        writers = {
            kind: stack.enter_context(PartWriter(*place)) for kind, place in part_places(plan, item, dataset).items()
        }
        tally = score_batches(plan, item, spooled, source, dataset, models, progress, panel, failing, writers, views)
    output, root = f"{plan.staging}/publish/admitted/{item.name}", ""
    if tally.quarantined or tally.malformed or dataset.dropped:
        tree = TreeBuilder()
        excluded = np.concatenate([np.zeros(0, np.int64), *tally.excluded])
        admitted = kept_batches(plan, item, spooled, dataset, excluded, tree)
        sha256, size_bytes = write_admitted(output, item, spooled, admitted, plan.limits, dataset.kept_columns)
        root = tree.root().hex()
        if tree.size != tally.admitted:
            raise InternalError(f"{item.name}: {tally.admitted} samples are admitted, {tree.size} were written.")
    else:
        sha256, size_bytes = copy_spooled(spooled, output)
    return file_outcome(
        item,
        tally,
        (sha256, size_bytes, root),
        writers["findings"].rows,
        metrics=failing.end(),
        held_by=failing.counts,
        failing=failing.failing(),
    )


def part_places(plan: VetPlan, item: WorkItem, dataset: DatasetFacts) -> dict[str, tuple[str, pa.Schema]]:
    """Return where the parts of a file go, by kind, and their schemas."""
    name = part_name(item.name)
    samples = pa.schema([*QUARANTINE_FIELDS, *dataset.schema])
    return {
        "findings": (f"{plan.staging}/parts/findings/{name}", FINDINGS_SCHEMA),
        "malformed": (f"{plan.staging}/parts/malformed/{name}", MALFORMED_SCHEMA),
        "reported": (f"{plan.staging}/parts/reported/{name}", samples),
        "quarantine": (f"{plan.staging}/publish/quarantine/{item.name}.parquet", samples),
    }


def score_batches(
    plan: VetPlan,
    item: WorkItem,
    spooled: Spooled,
    source: DigestSource,
    dataset: DatasetFacts,
    models: Models,
    progress: ProgressReporter,
    panel: Panel,
    failing: FileRows,
    writers: Mapping[str, Any],
    views: ViewRows | None = None,
) -> "Tally":
    """Score a file or a span, write its parts by kind, and return what was counted."""
    tally = Tally()
    for decoded in dataset.decode(item, spooled.file, plan.limits):
        scored = _score_batch(plan, item, decoded, source, dataset, models, tally, views, failing)
        writers["malformed"].write(_malformed_batch(item, decoded, scored))
        writers["findings"].write(_findings_batch(item, scored, panel, failing))
        writers["quarantine"].write(_flagged_samples(item, decoded, scored, scored.held, panel, failing))
        shown = scored.flagged & ~scored.held
        writers["reported"].write(_flagged_samples(item, decoded, scored, shown, panel, failing))
        progress.advance(plan.passes + 1, rows=len(decoded.rows))
    return tally


def file_outcome(
    item: WorkItem,
    tally: "Tally",
    output: tuple[str, int, str],
    findings: int,
    *,
    metrics: dict[str, Any],
    held_by: dict[int, int],
    failing: FailingRows,
) -> FileOutcome:
    """Return a file's outcome. output: SHA-256, size and row tree root of its admitted file."""
    return FileOutcome(
        name=item.name,
        source=item.source,
        rows=tally.admitted + tally.quarantined + tally.malformed,
        malformed=tally.malformed,
        admitted=tally.admitted,
        quarantined=tally.quarantined,
        flagged=tally.flagged,
        scored=tally.scored,
        flagged_any=tally.flagged_any,
        histogram=tally.histogram,
        thresholds=tally.thresholds,
        output_sha256=output[0],
        output_size_bytes=output[1],
        output_row_tree_root=output[2],
        findings=findings,
        votes=tally.votes,
        released=tally.released,
        metrics=metrics,
        held_by=held_by,
        failing=failing,
        doubted=tally.doubted,
    )


def kept_batches(
    plan: VetPlan, item: WorkItem, spooled: Spooled, dataset: DatasetFacts, excluded: np.ndarray, tree: TreeBuilder
) -> Iterator[Decoded]:
    """Decode a file or a span again, without the rows `excluded`, ascending; `tree` gets the rows that are left."""
    for decoded in dataset.decode(item, spooled.file, plan.limits):
        if not len(decoded.rows):
            continue
        first, last = np.searchsorted(excluded, [decoded.rows[0], decoded.rows[-1] + 1])
        kept = decoded.keep(~np.isin(decoded.rows, excluded[first:last], assume_unique=True))
        tree.extend(leaf_hashes(sample_digests(kept.batch)))
        yield kept


@dataclass
class Tally:
    """What is counted while one file is scored.

    excluded: row numbers of what decodes and is not admitted, ascending, 8 bytes each.
    """

    admitted: int = 0
    quarantined: int = 0
    malformed: int = 0
    flagged_any: int = 0
    flagged: dict[str, int] = field(default_factory=dict)
    scored: dict[str, int] = field(default_factory=dict)
    histogram: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict)
    thresholds: dict[str, float | None] = field(default_factory=dict)
    excluded: list[np.ndarray] = field(default_factory=list)
    votes: dict[Cell, int] = field(default_factory=dict)
    released: dict[str, int] = field(default_factory=dict)
    doubted: int = 0

    def plus(self, other: "Tally") -> "Tally":
        """Return the sums of both; the excluded rows of neither."""
        histogram = {name: dict(counts) for name, counts in self.histogram.items()}
        for name, counts in other.histogram.items():
            mine = histogram.setdefault(name, {})
            for chosen, (samples, flagged) in counts.items():
                before = mine.get(chosen, (0, 0))
                mine[chosen] = (before[0] + samples, before[1] + flagged)
        thresholds = dict(self.thresholds)
        for name, lowest in other.thresholds.items():
            both = [one for one in (thresholds.get(name), lowest) if one is not None]
            thresholds[name] = min(both, default=None)
        return Tally(
            admitted=self.admitted + other.admitted,
            quarantined=self.quarantined + other.quarantined,
            malformed=self.malformed + other.malformed,
            flagged_any=self.flagged_any + other.flagged_any,
            flagged=_added(self.flagged, other.flagged),
            scored=_added(self.scored, other.scored),
            histogram=histogram,
            thresholds=thresholds,
            votes=add_votes(self.votes, other.votes.items()),
            released=_added(self.released, other.released),
            doubted=self.doubted + other.doubted,
        )


def _added(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return {name: first.get(name, 0) + second.get(name, 0) for name in {**first, **second}}


@dataclass(frozen=True)
class _Scored:
    """One batch after scoring; arrays and masks count the usable rows.

    positions: of the usable rows in the decoded batch. digests: (n, 32), of flagged rows only, zero elsewhere.
    unusable: (position in the batch, reason). cells: what was voted, one a flagged row, in order. failing: what the
    expectations say of the rows.
    """

    rows: np.ndarray
    positions: np.ndarray
    digests: np.ndarray
    sources: pa.Array
    labels: pa.Array | None
    held: np.ndarray
    flagged: np.ndarray
    scores: tuple[tuple[PlannedCheck, Scores], ...]
    unusable: tuple[Any, ...]
    cells: tuple[Cell, ...]
    failing: Failing


def _score_batch(
    plan: VetPlan,
    item: WorkItem,
    decoded: Decoded,
    source: DigestSource,
    dataset: DatasetFacts,
    models: Models,
    tally: Tally,
    views: ViewRows | None,
    expected: FileRows,
) -> _Scored:
    every_digest = source.of(decoded.batch) if plan.wants_digests else None
    batch, view = sample_batch(decoded, every_digest, item, dataset, wants_columns=False, views=views)
    roles = role_batch(batch)
    count = batch.num_rows
    flagged_any, suspected = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
    scores = []
    for planned in plan.checks:
        model = models[planned.name]
        if isinstance(model, CheckFailure) or not count:
            continue
        found = planned.check.score(model, roles)
        _refuse_wrong_shape(planned, found, count)
        scores.append((planned, found))
        flagged_any |= found.flagged
        if signal_of(planned.check) != "label_doubt":
            suspected |= found.flagged
        _count_scores(tally, planned.name, found)
    positions = np.flatnonzero(view.usable)
    digests = np.zeros((count, 32), np.uint8)
    usable = decoded.batch if count == len(decoded.rows) else decoded.batch.filter(pa.array(view.usable))
    failing = expected.add(usable, decoded.rows[view.usable])
    told = flagged_any | failing.held
    if told.any():
        chosen = positions[told]
        digests[told] = (
            sample_digests(decoded.batch.take(pa.array(chosen))) if every_digest is None else every_digest[chosen]
        )
    held, released = release(plan, scores, digests, dataset.signers)
    held |= failing.held
    tally.released = dict(Counter(tally.released) + Counter(released))
    tally.admitted += int((~held).sum())
    tally.quarantined += int(held.sum())
    tally.doubted += int((held & ~suspected & ~failing.held).sum())
    tally.flagged_any += int(flagged_any.sum())
    tally.malformed += len(decoded.malformed) + len(view.faults)
    excluded = ~view.usable
    excluded[positions[held]] = True
    if excluded.any():
        tally.excluded.append(decoded.rows[excluded])
    place = roles.schema.get_field_index("label")
    sources, labels = roles.column(roles.schema.get_field_index("source")), None if place < 0 else roles.column(place)
    cells = cells_of(scores, np.flatnonzero(flagged_any), sources, labels)
    tally.votes = add_votes(tally.votes, Counter(cells).items())
    return _Scored(
        rows=decoded.rows[view.usable],
        positions=positions,
        digests=digests,
        sources=sources,
        labels=labels,
        held=held,
        flagged=flagged_any,
        scores=tuple(scores),
        unusable=view.faults,
        cells=cells,
        failing=failing,
    )


def _refuse_wrong_shape(planned: PlannedCheck, scores: Scores, count: int) -> None:
    lengths = {len(scores.score), len(scores.threshold), len(scores.flagged), len(scores.group)}
    if lengths != {count} or not np.isfinite(scores.score).all():
        raise InternalError(
            f"Check {planned.name} returned {sorted(lengths)} scores for {count} samples, or scores that are not "
            "finite.",
            hint=f"Run `millcert check conform {planned.check.name}`.",
        )


def _count_scores(tally: Tally, name: str, scores: Scores) -> None:
    tally.scored[name] = tally.scored.get(name, 0) + len(scores.score)
    flagged = int(scores.flagged.sum())
    tally.flagged[name] = tally.flagged.get(name, 0) + flagged
    bins = score_bins(scores.score)
    counts = tally.histogram.setdefault(name, {})
    for chosen, value in zip(*np.unique(bins, return_counts=True), strict=True):
        among = int((scores.flagged & (bins == chosen)).sum()) if flagged else 0
        before = counts.get(int(chosen), (0, 0))
        counts[int(chosen)] = (before[0] + int(value), before[1] + among)
    finite = scores.threshold[scores.flagged & np.isfinite(scores.threshold)]
    lowest = tally.thresholds.get(name)
    if len(finite):
        lowest = float(finite.min()) if lowest is None else min(lowest, float(finite.min()))
    tally.thresholds[name] = lowest


def score_bins(score: np.ndarray) -> np.ndarray:
    """Return the bin of each score, int64, between -200 and 200: bin 0 starts at 0."""
    steps = np.floor(BINS_A_STEP * np.arcsinh(score / SCORE_UNIT))
    return np.clip(steps, LOWEST_BIN, HIGHEST_BIN).astype(np.int64)


def bin_edge(number: int) -> float:
    """Return the lower edge of a bin."""
    return SCORE_UNIT * math.sinh(number / BINS_A_STEP)


def _malformed_batch(item: WorkItem, decoded: Decoded, scored: _Scored) -> pa.RecordBatch:
    rows: list[Mapping[str, Any]] = [
        {
            "file": item.name,
            "row": bad.row,
            "line": bad.line,
            "byte_offset": bad.byte_offset,
            "reason": bad.reason,
            "detail": bad.detail,
        }
        for bad in decoded.malformed
    ]
    rows += [
        {
            "file": item.name,
            "row": int(decoded.rows[fault.position]),
            "line": None,
            "byte_offset": None,
            "reason": fault.reason,
            "detail": fault.detail,
        }
        for fault in scored.unusable
    ]
    rows.sort(key=lambda row: row["row"])
    return pa.RecordBatch.from_pylist(rows, schema=MALFORMED_SCHEMA)


def _findings_batch(item: WorkItem, scored: _Scored, panel: Panel, failing: FileRows) -> pa.RecordBatch:
    every = np.flatnonzero(scored.flagged)
    batches = failing.findings(scored.failing, scored.rows, digest_array(scored.digests), scored.sources, scored.labels)
    for planned, scores in scored.scores:
        chosen = np.flatnonzero(scores.flagged)
        count, taken = len(chosen), pa.array(chosen)
        labels = pa.nulls(count, pa.string()) if scored.labels is None else scored.labels.take(taken)
        cells = [scored.cells[place] for place in np.searchsorted(every, chosen)]
        columns = [
            pa.array([item.name] * count, pa.string()),
            pa.array(scored.rows[chosen]),
            digest_array(scored.digests[chosen]),
            scored.sources.take(taken),
            labels,
            pa.array([planned.name] * count, pa.string()),
            scores.group.take(taken),
            pa.array(scores.score[chosen], pa.float64()),
            pa.array(scores.threshold[chosen], pa.float64()),
            pa.array([scores.reason] * count, pa.string()),
            pa.array([action_of(planned, is_held=bool(scored.held[place])) for place in chosen], pa.string()),
            pa.array([panel.kind_of(cell) for cell in cells], pa.string()),
            pa.array([list(cell.votes) for cell in cells], pa.list_(pa.string())),
            *_suggestion_columns(planned, scores, count),
        ]
        batches.append(pa.RecordBatch.from_arrays(columns, schema=FINDINGS_SCHEMA))
    if not batches:
        return pa.RecordBatch.from_pylist([], schema=FINDINGS_SCHEMA)
    table = pa.Table.from_batches(batches).sort_by([("row", "ascending"), ("check", "ascending")]).combine_chunks()
    return table.to_batches()[0] if table.num_rows else pa.RecordBatch.from_pylist([], schema=FINDINGS_SCHEMA)


def _suggestion_columns(planned: PlannedCheck, scores: Scores, count: int) -> list[pa.Array]:
    """Return what the check suggests for its flagged samples, or nulls."""
    if scores.suggestions is None:
        return [pa.nulls(count, field.type) for field in SUGGESTION_FIELDS]
    label, given, likeliest, neighbours = scores.suggestions
    found = [label, pa.array(given, pa.float64()), pa.array(likeliest, pa.float64()), neighbours]
    if {len(column) for column in found} != {count}:
        raise InternalError(
            f"Check {planned.name} suggests something for {len(label)} samples and flags {count}.",
            hint=f"Run `millcert check conform {planned.check.name}`.",
        )
    return found


def _flagged_samples(
    item: WorkItem, decoded: Decoded, scored: _Scored, mask: np.ndarray, panel: Panel, failing: FileRows
) -> pa.RecordBatch:
    chosen = np.flatnonzero(mask)
    places = np.searchsorted(np.flatnonzero(scored.flagged), chosen)
    kinds = [
        panel.kind_of(scored.cells[place]) if scored.flagged[position] else KIND
        for place, position in zip(places, chosen, strict=True)
    ]
    reasons = [
        [
            {
                "check": planned.name,
                "reason": scores.reason,
                "group": scores.group[int(position)].as_py(),
                "score": float(scores.score[position]),
                "threshold": float(scores.threshold[position]),
            }
            for planned, scores in scored.scores
            if scores.flagged[position]
        ]
        + failing.reasons(scored.failing.masks[position])
        for position in chosen
    ]
    columns = [
        pa.array([item.name] * len(chosen), pa.string()),
        pa.array(scored.rows[chosen]),
        digest_array(scored.digests[chosen]),
        pa.array(reasons, REASONS_TYPE),
        pa.array(kinds, pa.string()),
        *decoded.batch.take(pa.array(scored.positions[chosen])).columns,
    ]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema([*QUARANTINE_FIELDS, *decoded.batch.schema]))
