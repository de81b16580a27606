"""Who labels wrongly: annotators, sources or batches whose labels are less likely than everybody's.

Label noise tells which labels are doubted; this check asks by whom they were given. A label's surprise is -log p(given)
under out-of-fold probabilities, at most log 1000: among sums of bounded row scores, the one that separates a mixture
with random labels best (Neyman and Pearson's ratio, up to the wrong labels' flat likelihood). A group (the value of the
annotator column, or of the source) is compared with all groups, class by class, so one that labels the hard classes is
not blamed for them; bad groups do not set what is normal, and how much honest ones differ is read off them
(`millcert.checks.rate_outliers`).

Two families of tests, each corrected (Bonferroni): every group, by its surprise; every (group, given class, likely
class), by the rows that are confidently of the likely class (Northcutt et al., JAIR 70 (2021), section 3.1).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from millcert.checks import columns
from millcert.checks.base import Accumulator, GroupEvidence, Role, Scores, Severity
from millcert.checks.class_cells import ClassCells
from millcert.checks.confident_learning import confident_class
from millcert.checks.detectors.label_noise import LabelNoise
from millcert.checks.label_filter import Rows
from millcert.checks.label_groups import rows_by_text
from millcert.checks.label_noise_model import LabelNoiseModel
from millcert.checks.label_noise_views import View
from millcert.checks.label_quality import self_confidence
from millcert.checks.rate_history import Rate, Rates, rates_of
from millcert.checks.rate_outliers import PowerSums, compare_groups, count_tail
from millcert.errors import InternalError, InvalidSampleError, PolicyError

By: TypeAlias = Literal["annotator", "source"]

REASON = "annotator_quality.label_of_a_bad_annotator"

#: Surprise is counted in this many steps from p(given) = 1 to 0.001: whole numbers, so that sums are exact.
_STEPS, _LEAST_PROBABILITY = 1024, 1e-3
#: Doubted rows score above this, others at most this.
_BAR = 0.5
#: Groups that are taken; each costs 16 bytes a pair of classes that it confuses.
MAX_GROUPS = 20_000


class GroupPart(NamedTuple):
    """What one group adds up to.

    confused: its rows by given class and the class they are confidently of; column K where there is none.
    surprise: sums of its rows' surprise by given class.
    """

    confused: ClassCells
    surprise: PowerSums


@dataclass(frozen=True, eq=False)
class AnnotatorModel:
    """What the passes so far know.

    noise: the model of the probabilities.
    confused: group -> its rows by given class and the class they are confidently of; column K where there is none.
    rho: how much groups differ honestly.
    p_value: group -> corrected for all groups.
    pairs: (group, given, likely) -> corrected p-value, of the named pairs alone.
    expected: group -> doubted rows to be expected of it, and its mean surprise in standard errors above everybody's.

    All but `noise` are empty before the last pass.
    """

    noise: LabelNoiseModel
    confused: Mapping[str, ClassCells]
    rho: float
    p_value: Mapping[str, float]
    pairs: Mapping[tuple[str, int, int], float]
    expected: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class AnnotatorQuality:
    """Name the annotators or sources whose labels are doubted more often than everybody's, and flag those labels.

    Score: 1 - p(given label) for a doubted row, half of it for another. Threshold: 0.5 in a named group, else infinite;
    a doubted row is above it, for another class is more probable than the given one.

    by: the role that says who labelled: "annotator", or "source" where each source labels its own rows.
    alpha: chance that any honest group is named, and chance that any honest pair is, in (0, 0.5].
    view, classes, folds, seed: as of `label_noise`.

    Groups: the group's name; "name: given -> likely" for a pair of classes that a group confuses without being named.
    Needs: label, the view, sample_digest, and the role of `by`. At most 20,000 groups.
    Passes: 2.
    Accumulator: as of label_noise; in the last pass 16 bytes for each (group, given, likely) and 40
    for each (group, given) that occurs.
    Limits: with fewer than 5 groups of some size there is no telling how much honest groups differ, and any that is
    doubted more often is named; with 5 to 10 it is known badly, so only who is far off is named. Groups with most of
    the rows, or most labels of a class, set what is right there.
    Source: see `millcert.checks.rate_outliers`; measured in bench/annotators.py.
    """

    name: ClassVar[str] = "annotator_quality"
    version: ClassVar[str] = "4"
    severity: ClassVar[Severity] = "warn"
    covers: ClassVar[frozenset[str]] = frozenset({"bad_annotator", "targeted_label_flips"})
    columns: ClassVar[frozenset[Role]] = frozenset({"annotator", "label", "embedding_external", "sample_digest"})

    by: By = "annotator"
    alpha: float = 0.01
    view: View = "embedding_external"
    classes: tuple[str, ...] = ()
    folds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        faults = [
            (self.by not in {"annotator", "source"}, f"by must be annotator or source, got {self.by!r}"),
            (not 0 < self.alpha <= 0.5, f"alpha must be in (0, 0.5], got {self.alpha}"),
        ]
        found = tuple(text for is_fault, text in faults if is_fault)
        if found:
            raise PolicyError(f"annotator_quality: {'; '.join(found)}.", faults=found)
        object.__setattr__(self, "columns", self._noise.columns | frozenset[Role]({self.by}))

    @property
    def _noise(self) -> LabelNoise:
        return LabelNoise(
            filter_by="confident_learning",
            view=self.view,
            classes=self.classes,
            folds=self.folds,
            rare_classes="skip",
            refine=0,
            seed=self.seed,
        )

    @property
    def passes(self) -> int:
        """How many full reads of the data `fit` needs."""
        return self._noise.passes

    def empty(self) -> Accumulator:
        """Return the accumulator of no samples."""
        return {}

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: AnnotatorModel | None) -> Accumulator:
        """Return `acc` with a batch added; a group is one of label_noise, in the last pass a group of `by`.

        Raises:
            MissingColumnError: the batch lacks a role.
            InvalidSampleError: a label outside the classes, probabilities of another width, or too many groups.
        """
        known = None if model is None else model.noise
        groups = columns.strings(batch, self.by)
        if not self._counts_next(known):
            return self._noise.add(acc, batch, known)
        rows = self._noise.rows(batch, self._fitted(model).noise)
        width = len(self._fitted(model).noise.classes)
        likely = self._likely(rows, self._fitted(model).noise)
        surprise = _surprise(rows)
        parts = {
            name: GroupPart(
                ClassCells.count(width + 1, rows.label[chosen], likely[chosen]),
                PowerSums.of(rows.label[chosen], surprise[chosen]),
            )
            for name, chosen in rows_by_text(groups.take(pa.array(rows.position)))
        }
        return self.merge([acc, parts])

    def merge(self, accs: Iterable[Accumulator]) -> Accumulator:
        """Return the accumulator of all samples of `accs`; exact, in any order."""
        parts = list(accs)
        first = next((part for acc in parts for part in acc.values()), None)
        if not isinstance(first, GroupPart):
            return self._noise.merge(parts)
        merged: dict[str, list[GroupPart]] = {}
        for acc in parts:
            for group, part in acc.items():
                merged.setdefault(group, []).append(part)
        if len(merged) > MAX_GROUPS:
            raise InvalidSampleError(
                f"The {self.by} column has more than {MAX_GROUPS} values; nobody can be judged on so few rows each.",
                hint="Check which column of the policy it is.",
                column=self.by,
            )
        return {group: _merged(found) for group, found in merged.items()}

    def fit(self, acc: Accumulator, model: AnnotatorModel | None) -> AnnotatorModel:
        """Return the model after a pass.

        Raises:
            NotEnoughSamplesError: fewer than 2 classes, as of label_noise.
        """
        known = None if model is None else model.noise
        if not self._counts_next(known):
            return AnnotatorModel(self._noise.fit(acc, known), {}, 0.0, {}, {})
        parts: dict[str, GroupPart] = dict(sorted(acc.items()))
        noise = self._fitted(model).noise
        found = compare_groups([part.surprise for part in parts.values()], len(noise.classes))
        null, rho = found.null, found.rho
        tail = found.upper_tail() * max(1, int((null.rows > 0).sum()))
        p_value = dict(zip(parts, np.minimum(tail, 1.0).tolist(), strict=True))
        confused = {name: part.confused for name, part in parts.items()}
        named = {name for name, value in p_value.items() if value < self.alpha}
        pairs = _named_pairs(confused, named, rho, self.alpha)
        above = (null.seen - null.mean) / np.where(found.error > 0, found.error, 1.0)
        expected = dict(zip(parts, zip(_expected_doubted(confused), above.tolist(), strict=True), strict=True))
        return replace(self._fitted(model), confused=confused, rho=rho, p_value=p_value, pairs=pairs, expected=expected)

    def score(self, model: AnnotatorModel, batch: pa.RecordBatch) -> Scores:
        """Return the scores of a batch."""
        self._refuse_unfitted(model)
        rows = self._noise.rows(batch, model.noise)
        likely, width = self._likely(rows, model.noise), len(model.noise.classes)
        is_doubted = (likely != rows.label) & (likely < width)
        score, threshold = np.zeros(batch.num_rows), np.full(batch.num_rows, np.inf)
        given = rows.pred_probs[np.arange(len(rows.label)), rows.label]
        score[rows.position] = np.where(is_doubted, 1 - given, (1 - given) / 2)
        names = columns.strings(batch, self.by).to_pylist()
        groups = list(names)
        for place, label, other, doubted in zip(
            rows.position.tolist(), rows.label.tolist(), likely.tolist(), is_doubted.tolist(), strict=True
        ):
            if doubted and (names[place], label, other) in model.pairs:
                groups[place] = self._pair_name(model, (names[place], label, other))
                threshold[place] = _BAR
        is_named = np.array([model.p_value.get(name, 1.0) < self.alpha for name in names], dtype=np.bool_)
        threshold[is_named] = _BAR
        return Scores(score, threshold, score > threshold, pa.array(groups, pa.string()), REASON)

    def rates(self, model: AnnotatorModel) -> Rates:
        """Return how many labels of each group, and of each class of it as each other one, are doubted."""
        self._refuse_unfitted(model)
        names, cells, groups = model.noise.classes, list[Rate](), list[tuple[tuple[str, ...], int]]()
        for group, confused in model.confused.items():
            doubted, rows = _doubted(confused), confused.row_sums()
            cells.append(Rate((group,), int(rows.sum()), int(doubted.value.sum())))
            cells += [
                Rate((group, names[row], names[column]), int(rows[row]), value)
                for row, column, value in zip(
                    doubted.row.tolist(), doubted.column.tolist(), doubted.value.tolist(), strict=True
                )
            ]
            groups += [((group, names[row]), int(rows[row])) for row in np.flatnonzero(rows).tolist()]
        return rates_of(cells, groups)

    def evidence(self, model: AnnotatorModel) -> tuple[GroupEvidence, ...]:
        """Return the error rate of each group, and the named pairs of classes.

        `statistic`: error_rate (doubted rows by rows), error_rate_low and error_rate_high (95 %, Wilson), expected_rate
        (what all groups together are doubted at on the same classes), overdispersion (rho); of a group surprise_above
        (its mean surprise above everybody's, in standard errors). The estimated count is the surplus over the expected.
        """
        self._refuse_unfitted(model)
        found = []
        for name, value in model.p_value.items():
            cells, (mean, above) = model.confused[name], model.expected[name]
            counted = (int(cells.value.sum()), int(_doubted(cells).value.sum()), mean)
            found.append(self._evidence(model, name, "", counted, value, {"surprise_above": above}))
        everybody = _sum_of(model.confused.values())
        class_rows = everybody.row_sums()
        for (name, label, other), value in model.pairs.items():
            cells = model.confused[name]
            rows, seen = int(cells.row_sums()[label]), _count_at(cells, label, other)
            mean = rows * _count_at(everybody, label, other) / int(class_rows[label])
            pair = self._pair_name(model, (name, label, other))
            found.append(self._evidence(model, pair, model.noise.classes[label], (rows, seen, mean), value, {}, name))
        return tuple(sorted(found, key=lambda item: item.group))

    def _evidence(
        self,
        model: AnnotatorModel,
        group: str,
        label: str,
        counted: tuple[int, int, float],
        p_value: float,
        more: Mapping[str, float],
        name: str | None = None,
    ) -> GroupEvidence:
        """Return the evidence of rows, doubted ones and how many of these to expect."""
        from scipy.stats import binomtest

        rows, seen, mean = counted
        is_suspicious = p_value < self.alpha
        low, high = binomtest(seen, rows).proportion_ci(method="wilson") if rows else (0.0, 0.0)
        statistic = {
            "error_rate": seen / rows if rows else 0.0,
            "error_rate_low": float(low),
            "error_rate_high": float(high),
            "expected_rate": mean / rows if rows else 0.0,
            "overdispersion": model.rho,
            **more,
        }
        surplus = [
            float(np.clip(value - mean, 0, rows)) if is_suspicious else 0.0 for value in (low * rows, seen, high * rows)
        ]
        return GroupEvidence(
            group=group,
            label=label,
            source=(name or group) if self.by == "source" else "",
            samples=rows,
            statistic=statistic,
            is_suspicious=is_suspicious,
            count_low=surplus[0],
            estimated_count=surplus[1],
            count_high=surplus[2],
            p_value=p_value,
        )

    def _pair_name(self, model: AnnotatorModel, pair: tuple[str, int, int]) -> str:
        name, label, other = pair
        return f"{name}: {model.noise.classes[label]} -> {model.noise.classes[other]}"

    @staticmethod
    def _refuse_unfitted(model: AnnotatorModel) -> None:
        if model.noise.thresholds is None or not model.confused:
            raise InternalError("annotator_quality was asked for an answer before its last pass.")

    def _counts_next(self, noise: LabelNoiseModel | None) -> bool:
        """Whether the next pass counts who confuses what: the one that label_noise would use for its joint."""
        return noise is not None and noise.thresholds is not None

    def _likely(self, rows: Rows, noise: LabelNoiseModel) -> np.ndarray:
        """Return the class that a row is confidently of, or K where there is none, int64 (n,)."""
        if noise.thresholds is None:
            raise InternalError("annotator_quality was given a model of an earlier pass.")
        guess = confident_class(rows.pred_probs, noise.thresholds, rows.top)
        is_known = (guess >= 0) & ((guess == rows.label) | ~rows.agrees())
        return np.where(is_known, guess, len(noise.classes))

    @staticmethod
    def _fitted(model: AnnotatorModel | None) -> AnnotatorModel:
        if model is None:
            raise InternalError("annotator_quality was given a model of an earlier pass.")
        return model


CHECK = AnnotatorQuality


def _merged(parts: list[GroupPart]) -> GroupPart:
    first, *others = parts
    if not others:
        return first
    return GroupPart(
        first.confused.merge(part.confused for part in others), first.surprise.merge(part.surprise for part in others)
    )


def _surprise(rows: Rows) -> np.ndarray:
    """Return -log p(given) in steps, int64 (n,), 0 to `_STEPS`."""
    given = np.maximum(self_confidence(rows.label, rows.pred_probs), _LEAST_PROBABILITY)
    return np.rint(np.log(np.minimum(given, 1.0)) / np.log(_LEAST_PROBABILITY) * _STEPS).astype(np.int64)


def _doubted(cells: ClassCells) -> ClassCells:
    """Return the cells of rows that are confidently of another class than the given one."""
    return cells.where((cells.row != cells.column) & (cells.column < cells.width - 1))


def _expected_doubted(confused: Mapping[str, ClassCells]) -> list[float]:
    """Return for each group how many of its rows were doubted if its classes were doubted as everybody's."""
    everybody = _sum_of(confused.values())
    share = _doubted(everybody).row_sums() / np.maximum(everybody.row_sums(), 1)
    return [float(cells.row_sums() @ share) for cells in confused.values()]


def _named_pairs(
    confused: Mapping[str, ClassCells], named: set[str], rho: float, alpha: float
) -> dict[tuple[str, int, int], float]:
    """Return the pairs of classes that a group confuses more often than the others, with corrected p-values.

    Groups that are named as a whole are left out. Every (group, given, likely) whose group has rows of the given class
    is a test, whether it occurs or not. What is named is no part of the others any more, and the rest is asked again.
    """
    everybody = _sum_of(confused.values())
    likely_of = np.bincount(_doubted(everybody).row, minlength=everybody.width)
    tests = sum(int(likely_of[cells.row_sums() > 0].sum()) for cells in confused.values())
    rows_left, hits = everybody.row_sums()[everybody.row], everybody.value.copy()
    nothing = np.zeros(0, dtype=np.int64)
    whose, entries, values, sizes = list[str](), [nothing], [nothing], [nothing]
    for name, cells in confused.items():
        rows = cells.row_sums()
        if name in named:
            hits[np.searchsorted(everybody.code, cells.code)] -= cells.value
            rows_left -= rows[everybody.row]
            continue
        own = _doubted(cells)
        whose += [name] * len(own.code)
        entries.append(np.searchsorted(everybody.code, own.code))
        values.append(own.value)
        sizes.append(rows[own.row])
    entry, seen, rows = np.concatenate(entries), np.concatenate(values), np.concatenate(sizes)
    found: dict[tuple[str, int, int], float] = {}
    asked, is_open = np.arange(len(entry)), np.ones(len(entry), dtype=np.bool_)
    while len(asked):
        at = entry[asked]
        tail = count_tail(seen[asked], rows[asked], hits[at] - seen[asked], rows_left[at] - rows[asked], rho) * tests
        is_off = tail < alpha
        for place, value in zip(asked[is_off].tolist(), tail[is_off].tolist(), strict=True):
            pair = int(everybody.row[entry[place]]), int(everybody.column[entry[place]])
            found[whose[place], *pair] = value
            hits[entry[place]] -= seen[place]
            rows_left[entry[place]] -= rows[place]
        is_open[asked[is_off]] = False
        asked = np.flatnonzero(is_open & np.isin(entry, at[is_off]))
    return found


def _sum_of(parts: Iterable[ClassCells]) -> ClassCells:
    found = list(parts)
    return found[0].merge(found[1:])


def _count_at(cells: ClassCells, row: int, column: int) -> int:
    columns_of, values = cells.row_of(row)
    return int(values[columns_of == column].sum())
