"""Labels that a sample's nearest neighbours contradict, and the source that brings too many of them to a class.

In a view that never saw this data, a sample with a trigger and a wrong label lies among its true class. So does an
honest label error and an honest odd sample; that is why no single sample is evidence, but a source is whose samples of
a class are contradicted more often than those of the same class in all other sources.

  1. Pass 1 counts the classes. Pass 2 keeps as many reference samples of each, those with the least digests: with equal
     numbers the neighbours vote as if classes were equally frequent, and a rare class is not outvoted.
  2. Pass 3 counts each cell's (source and class) contradictions: the logarithm of the votes for the strongest other
     class over those for the given one. The sample itself and its exact copies have no vote.
  3. Null: the contradictions of a class fall to its sources at random (labels permuted between sources): how many of a
     cell's lie above a border is hypergeometric. Where honest sources scatter more than that, the scatter of the other
     sources is allowed for. Bonferroni over cells and borders.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from millcert.checks.base import MAX_TOP_FEATURES, Accumulator, GroupEvidence, Role, Scores, Severity, merge_groups
from millcert.checks.cell_names import cell_name, rows_by_cell
from millcert.checks.columns import digests, matrix, strings
from millcert.checks.contrast import random_signs
from millcert.checks.digest_sample import DigestSample, check_seed, choosing_keys
from millcert.checks.exact import ExactMatrix, quantise_rows, sum_squares
from millcert.checks.excess import Excess, bin_of, count_excess
from millcert.checks.flagging import Counts
from millcert.checks.label_groups import rows_by_text
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError, PolicyError

View: TypeAlias = Literal["embedding_external", "embedding_self"]

#: Parts of a class that lie below the borders at which cells are compared.
BORDERS = (0.5, 0.8, 0.9, 0.95)
#: A cell with fewer samples is not tested, nor a class with fewer sources.
LEAST_SAMPLES, LEAST_SOURCES = 20, 3
#: Wider embeddings are projected first, so that a reference sample stays below 4 MB a class.
MAX_DIMENSION = 256
#: Fewest references of a class, however many classes there are.
LEAST_REFERENCES = 8


class _Cell(NamedTuple):
    """Pass 1 and 3, of one cell: samples, embedding width, and in pass 3 the bins of its contradictions."""

    source: str
    label: str
    samples: int
    width: int
    bins: Counts


class _Test(NamedTuple):
    """What the tests say of a cell; p_value None where it was not tested. above, expected: at the best border."""

    p_value: float | None
    above: float
    expected: float


@dataclass(frozen=True, eq=False)
class KnnDisagreementModel:
    """The model after pass `stage`.

    samples: of (source, class). width: of embeddings. references: rows of each class, by label, in `labels`' order.
    keys: uint64 (r,), of the references. code: int64 (r,), their classes. table: their directions.
    tests, excess: of (source, class); only suspicious cells have an excess.
    """

    stage: int
    samples: Mapping[tuple[str, str], int]
    width: int
    labels: tuple[str, ...] = ()
    keys: np.ndarray | None = None
    code: np.ndarray | None = None
    table: ExactMatrix | None = None
    tests: Mapping[tuple[str, str], _Test] | None = None
    excess: Mapping[tuple[str, str], Excess] | None = None


@dataclass(frozen=True)
class KnnDisagreement:
    """Name the source whose samples of a class lie among other classes more often than all others', and flag those.

    Needs: label, source, a view (float32, d), sample_digest.
    Passes: 3, and scoring; passes 3 and scoring compare each sample with the references.
    Score: log((votes for the strongest other class + 1/2) / (votes for the given class + 1/2)) among the `neighbours`
        nearest references by cosine; above 0 the neighbours contradict the label.
    Accumulator: pass 1 a count a cell; pass 2 4 x min(d, 256) bytes a reference; pass 3 16 bytes an occupied bin and
        cell.
    Cost: references x min(d, 256) products a sample: about 0.5 milliseconds at 4,096 and 128.
    Finds: wrong labels, with triggers or without, that come by few of the sources, in a view that never saw the data.
    Does not find: wrong labels spread evenly over sources, which it ranks but does not flag; triggers with the right
        label; anything in a view that was trained on the wrong labels.
    Source: the vote is that of k nearest neighbours on equal classes (deep k-NN: Peri et al., ECCV workshops 2020;
        SimiFeat: Zhu et al., ICML 2022); the null by source is our choice.

    view: an embedding.
    neighbours: k, in [3, 200]; at most the references of a class.
    references: of all classes together, in [64, 65536].
    false_alarm_rate: the chance that any cell of an honest data set is named, in (0, 0.1].
    seed: keys the choice of references; a number that nobody knows who supplies the data. 0: no key, so samples can be
        made that are sure to be references.
    """

    name: ClassVar[str] = "knn_disagreement"
    version: ClassVar[str] = "1"
    severity: ClassVar[Severity] = "warn"
    #: Of a view that never saw the data; one that was trained on wrong labels agrees with them.
    covers: ClassVar[frozenset[str]] = frozenset({"targeted_label_flips", "backdoor_adaptive"})
    #: Of the default configuration; an instance has its own.
    columns: ClassVar[frozenset[Role]] = frozenset({"label", "source", "embedding_external", "sample_digest"})
    flags_follow_threshold: ClassVar[bool] = True
    reason: ClassVar[str] = "knn_disagreement.neighbours_of_another_class"

    view: View = "embedding_external"
    neighbours: int = 20
    references: int = 4096
    false_alarm_rate: float = 0.001
    seed: int = 0

    def __post_init__(self) -> None:
        if self.view not in ("embedding_external", "embedding_self"):
            raise PolicyError(f"view must be embedding_external or embedding_self, got {self.view!r}.")
        if not 3 <= self.neighbours <= 200:
            raise PolicyError(f"neighbours must be in [3, 200], got {self.neighbours}.")
        if not 64 <= self.references <= 65536:
            raise PolicyError(f"references must be in [64, 65536], got {self.references}.")
        if not 0 < self.false_alarm_rate <= 0.1:
            raise PolicyError(f"false_alarm_rate must be in (0, 0.1], got {self.false_alarm_rate}.")
        check_seed(self.seed)
        object.__setattr__(self, "columns", frozenset[Role]({"label", "source", self.view, "sample_digest"}))
        if self.view == "embedding_self":
            object.__setattr__(self, "covers", frozenset[str]())

    @property
    def passes(self) -> int:
        """Full reads of the data that `fit` needs."""
        return 3

    def empty(self) -> Accumulator:
        """Return the accumulator of no samples."""
        return {}

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: KnnDisagreementModel | None) -> Accumulator:
        """Return `acc` with a batch added; see `Check.add`."""
        rows, marks = matrix(batch, self.view), digests(batch)
        sources, labels = strings(batch, "source"), strings(batch, "label")
        parts: dict[str, Any] = {}
        if model is not None and model.stage == 1:
            narrow = _directions(rows, model)
            for label, places in rows_by_text(labels):
                most = _references_of_a_class(model, self.references)
                keys = choosing_keys(marks[places], self.seed)
                parts[f"class {label}"] = DigestSample.of_keys(keys, narrow[places], most)
            return self.merge([acc, parts])
        score = None if model is None else self._contradictions(model, rows, labels, marks)
        for source, label, places in rows_by_cell(sources, labels):
            bins = Counts.zero() if score is None else Counts.zero().add(bin_of(score[places]))
            parts[f"cell {cell_name(source, label)}"] = _Cell(source, label, len(places), rows.shape[1], bins)
        return self.merge([acc, parts])

    def merge(self, accs: Iterable[Accumulator]) -> Accumulator:
        """Return the accumulator of all samples of `accs`; exact, in any order."""
        return merge_groups(accs, _merged)

    def fit(self, acc: Accumulator, model: KnnDisagreementModel | None) -> KnnDisagreementModel:
        """Return the model after a pass.

        Raises:
            NotEnoughSamplesError: fewer than two classes.
            InvalidSampleError: embeddings of several widths.
        """
        if model is None:
            widths = {part.width for part in acc.values()}
            if len({part.label for part in acc.values()}) < 2:
                raise NotEnoughSamplesError("Neighbours of another class need at least two classes.")
            if len(widths) > 1:
                raise InvalidSampleError("Embeddings have several widths.", column=self.view, widths=sorted(widths))
            samples = {(part.source, part.label): part.samples for _, part in sorted(acc.items())}
            return KnnDisagreementModel(1, samples, widths.pop())
        if model.stage == 1:
            parts = sorted(acc.items())
            code = np.repeat(np.arange(len(parts)), [len(part.keys) for _, part in parts])
            return replace(
                model,
                stage=2,
                labels=tuple(group.removeprefix("class ") for group, _ in parts),
                keys=np.concatenate([part.keys for _, part in parts]),
                code=code,
                table=ExactMatrix.of(np.concatenate([part.rows for _, part in parts]).astype(np.float64).T),
            )
        cells = {(part.source, part.label): part.bins for part in acc.values()}
        tests = _test_cells(cells)
        family = max(1, len(BORDERS) * sum(test.p_value is not None for test in tests.values()))
        tests = {
            cell: test if test.p_value is None else test._replace(p_value=min(1.0, test.p_value * family))
            for cell, test in tests.items()
        }
        excess = {
            cell: count_excess(cells[cell], _rest(cells, cell))
            for cell, test in tests.items()
            if test.p_value is not None and test.p_value <= self.false_alarm_rate
        }
        return replace(model, stage=3, tests=tests, excess=excess)

    def score(self, model: KnnDisagreementModel, batch: pa.RecordBatch) -> Scores:
        """Return the scores of a batch; 0 for classes not seen in `fit`."""
        if model.excess is None:
            raise InternalError("knn_disagreement was asked to score before its last pass.")
        rows, labels, sources = matrix(batch, self.view), strings(batch, "label"), strings(batch, "source")
        score = self._contradictions(model, rows, labels, digests(batch))
        threshold, names = np.full(len(rows), np.inf), np.full(len(rows), "", dtype=object)
        for source, label, places in rows_by_cell(sources, labels):
            names[places] = cell_name(source, label)
            if (source, label) in model.excess:
                # Never below 0: there the neighbours agree with the label.
                threshold[places] = max(0.0, np.nextafter(model.excess[source, label].above, -np.inf))
        return Scores(score, threshold, score > threshold, pa.array(names.tolist(), pa.string()), self.reason)

    def evidence(self, model: KnnDisagreementModel) -> tuple[GroupEvidence, ...]:
        """Return each cell's test.

        `statistic`: tested (0 or 1); above (samples over the border that tells most) and expected (by the class in the
        other sources).
        """
        found = []
        for cell, test in (model.tests or {}).items():
            figures = {"tested": float(test.p_value is not None), "above": test.above, "expected": test.expected}
            one = (model.excess or {}).get(cell)
            estimate, low, high = (one.estimate, one.low, one.high) if one else (0.0, 0.0, 0.0)
            top = ((f"source {cell[0]}", test.above / max(1.0, test.expected)),)[:MAX_TOP_FEATURES] if one else ()
            samples, name = model.samples[cell], cell_name(*cell)
            found.append(
                GroupEvidence(
                    name, cell[1], cell[0], samples, figures, one is not None, estimate, low, high, test.p_value, top
                )
            )
        return tuple(sorted(found, key=lambda item: item.group))

    def _contradictions(
        self, model: KnnDisagreementModel, rows: np.ndarray, labels: pa.StringArray, marks: np.ndarray
    ) -> np.ndarray:
        if model.table is None or model.keys is None or model.code is None:
            raise InternalError("There are no references yet.")
        near = model.table.apply(_directions(rows, model))
        near[choosing_keys(marks, self.seed)[:, None] == model.keys] = -np.inf
        sizes = np.bincount(model.code, minlength=len(model.labels))
        wanted = int(min(self.neighbours, max(sizes.min(), 3), len(model.code) - 1))
        nearest = np.argpartition(-near, wanted - 1, axis=1)[:, :wanted]
        votes = np.zeros((len(rows), len(model.labels)))
        np.add.at(votes, (np.arange(len(rows))[:, None], model.code[nearest]), 1.0)
        # A class with fewer references than the others gets as much more for each vote.
        votes *= sizes.max() / sizes
        place = {label: number for number, label in enumerate(model.labels)}
        given = np.array([place.get(label, -1) for label in labels.to_pylist()], dtype=np.int64)
        own = np.where(given >= 0, votes[np.arange(len(rows)), given], 0.0)
        known = np.flatnonzero(given >= 0)
        votes[known, given[known]] = -1.0
        other = np.maximum(votes.max(axis=1, initial=-1.0), 0.0)
        score: np.ndarray = np.where(given >= 0, np.log((other + 0.5) / (own + 0.5)), 0.0)
        return score


def _references_of_a_class(model: KnnDisagreementModel, references: int) -> int:
    classes = len({label for _, label in model.samples})
    return max(LEAST_REFERENCES, references // classes)


def _directions(rows: np.ndarray, model: KnnDisagreementModel) -> np.ndarray:
    """Return rows of length 1 (0 for a row of zeros), at most 256 wide; the same bits in any batch."""
    if rows.shape[1] != model.width:
        raise InvalidSampleError(
            f"Embeddings have width {rows.shape[1]}; others of this data set have {model.width}.",
            hint="All samples must have embeddings of one model.",
        )
    whole, exponent = quantise_rows(rows)
    placed = whole * np.ldexp(1.0, exponent)[:, None]
    if rows.shape[1] > MAX_DIMENSION:
        placed = ExactMatrix.of(random_signs(rows.shape[1], MAX_DIMENSION, 0)).apply_quantised(whole, exponent)
    length = np.sqrt(sum_squares(placed))[:, None]
    found: np.ndarray = np.divide(placed, length, out=np.zeros_like(placed), where=length > 0)
    return found


def _test_cells(cells: Mapping[tuple[str, str], Counts]) -> dict[tuple[str, str], _Test]:
    """Return the least p-value of each cell over the borders, not yet corrected."""
    tallies: dict[tuple[str, str], list[tuple[int, int, int, int]]] = {}
    for label in sorted({label for _, label in cells}):
        mine = {cell: bins for cell, bins in sorted(cells.items()) if cell[1] == label}
        every = Counts.zero().merge(mine.values())
        large = {cell: bins for cell, bins in mine.items() if bins.total >= LEAST_SAMPLES}
        if len(large) < LEAST_SOURCES:
            continue
        below = np.cumsum(every.counts) / every.total
        borders = [int(every.keys[np.searchsorted(below, share)]) + 1 for share in BORDERS]
        for cell, bins in large.items():
            tallies[cell] = [
                (bins.at(border, 2**40).total, bins.total, every.at(border, 2**40).total, every.total)
                for border in borders
            ]
    return {cell: _tested(cell, tallies) if cell in tallies else _Test(None, 0.0, 0.0) for cell in cells}


def _tested(cell: tuple[str, str], tallies: Mapping[tuple[str, str], list[tuple[int, int, int, int]]]) -> _Test:
    from scipy.stats import hypergeom, t

    best = _Test(1.0, 0.0, 0.0)
    others = [other for other in tallies if other[0] != cell[0]]
    for number, (above, samples, class_above, class_samples) in enumerate(tallies[cell]):
        rest_above, rest = class_above - above, class_samples - samples
        p_value = float(hypergeom.sf(above - 1, class_samples, class_above, samples))
        # The scatter of the other sources, in all classes and among themselves, beyond what falling at random gives
        # (quasi-likelihood).
        squares = []
        for other in others:
            mine, of_class, samples_of_class = tallies[other][number][:2], *tallies[other][number][2:]
            odd = tallies.get((cell[0], other[1]))
            out, samples_out = odd[number][:2] if odd else (0, 0)
            squares.append(_standardised(*mine, of_class - out, samples_of_class - samples_out) ** 2)
        freedom = len(squares) - len({other[1] for other in others})
        scatter = sum(squares) / freedom if freedom > 0 else 1.0
        if scatter > 1 and freedom > 0:
            share = (rest_above + 0.5) / (rest + 1)
            variance = samples * share * (1 - share) * (1 + samples / rest)
            z = (above - samples * share) / float(np.sqrt(scatter * variance))
            p_value = max(p_value, float(t.sf(z, freedom)))
        if p_value < (best.p_value or 0.0):
            best = _Test(p_value, float(above), samples * rest_above / rest)
    return best


def _standardised(above: int, samples: int, class_above: int, class_samples: int) -> float:
    share = class_above / max(1, class_samples)
    left = (class_samples - samples) / max(1, class_samples - 1)
    variance = samples * share * (1 - share) * left
    return (above - samples * share) / float(np.sqrt(variance)) if variance > 0 else 0.0


def _rest(cells: Mapping[tuple[str, str], Counts], cell: tuple[str, str]) -> Counts:
    return Counts.zero().merge(bins for other, bins in cells.items() if other[1] == cell[1] and other != cell)


def _merged(parts: list[Any]) -> Any:
    first, *others = parts
    if isinstance(first, DigestSample):
        return first.merge(others)
    widths = {part.width for part in parts}
    if len(widths) > 1:
        raise InvalidSampleError("Embeddings have several widths.", widths=sorted(widths))
    samples = sum(part.samples for part in parts)
    return first._replace(samples=samples, bins=first.bins.merge(part.bins for part in others))


CHECK = KnnDisagreement
