"""Every registered check keeps the rules, and a check that breaks one is caught by that rule's case."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.base import Accumulator, Check, GroupEvidence, Role, Scores, Severity
from millcert.checks.columns import matrix, strings
from millcert.checks.conformance import ConformanceCase, ConformanceError, conformance_cases, same_bits
from millcert.checks.conformance_data import planted_for
from millcert.checks.exact import ExactSum, quantise_rows, sum_squares
from millcert.checks.registry import get_check, list_checks
from millcert.errors import NotEnoughSamplesError

REQUIRED: dict[str, dict[str, object]] = {
    "spectral_signatures": {"epsilon": 0.2},
    "shortcut_mining": {"shape": (2, 6), "patch": 2, "least_side": 2},
}
CHECKS = [get_check(name, REQUIRED.get(name)) for name in list_checks()]


def named(cases: Iterable[ConformanceCase]) -> list[Any]:
    return [pytest.param(case, id=case.name) for case in cases]


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=f"{check.name}-{case.name}") for check in CHECKS for case in conformance_cases(check)],
)
def test_every_registered_check_keeps_every_rule(case: ConformanceCase) -> None:
    case.run()


@dataclass(frozen=True)
class Distance:
    """A small sound check: the distance from the mean of all samples; the mutants below break one rule each."""

    name: ClassVar[str] = "distance"
    version: ClassVar[str] = "1"
    columns: ClassVar[frozenset[Role]] = frozenset({"label", "embedding_self"})
    severity: ClassVar[Severity] = "reject"
    covers: ClassVar[frozenset[str]] = frozenset({"backdoor_dirty_label"})

    cut: float = 200.0

    @property
    def passes(self) -> int:
        return 1

    def empty(self) -> Accumulator:
        return {}

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: Any) -> Accumulator:
        rows, _ = matrix(batch, "embedding_self"), strings(batch, "label")
        old = acc.get("all", ExactSum.zero(rows.shape[1]))
        return {**acc, "all": old.add(rows)} if len(rows) else dict(acc)

    def merge(self, accs: Iterable[Accumulator]) -> Accumulator:
        parts = [acc["all"] for acc in accs if "all" in acc]
        return {"all": parts[0].merge(parts[1:])} if parts else {}

    def fit(self, acc: Accumulator, model: Any) -> Any:
        if "all" not in acc:
            raise NotEnoughSamplesError("There are no samples.")
        return acc["all"].value() / acc["all"].count

    def score(self, model: Any, batch: pa.RecordBatch) -> Scores:
        rows, labels = matrix(batch, "embedding_self"), strings(batch, "label")
        whole, exponent = quantise_rows(rows)
        score = sum_squares(whole * np.ldexp(1.0, exponent)[:, None] - model)
        threshold = np.full(len(rows), self.cut)
        return Scores(score, threshold, score > threshold, pa.array(["all"] * len(labels), pa.string()), "distance.far")

    def evidence(self, model: Any) -> tuple[GroupEvidence, ...]:
        return (GroupEvidence("all", "", "", 480, {}, is_suspicious=True, estimated_count=1.0, count_low=0.0,
                              count_high=2.0, p_value=None),)  # fmt: skip


class Unfrozen(Distance):
    """Its fields can be set."""

    def __setattr__(self, key: str, value: object) -> None:
        object.__setattr__(self, key, value)


class Unpicklable(Distance):
    """Its model cannot leave the process unchanged."""

    def fit(self, acc: Accumulator, model: Any) -> Any:
        return Forgetful(super().fit(acc, model))

    def score(self, model: Any, batch: pa.RecordBatch) -> Scores:
        return super().score(model.mean, batch)


class Forgetful:
    def __init__(self, mean: np.ndarray) -> None:
        self.mean = mean

    def __reduce__(self) -> tuple[Any, ...]:
        return (Forgetful, (self.mean + 1,))


class RoundedAlongTheWay(Distance):
    """Adds floats in the order they come."""

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: Any) -> Accumulator:
        rows = matrix(batch, "embedding_self")
        count, total = acc.get("all", (0, np.float32(0)))
        strings(batch, "label")
        return {"all": (count + len(rows), total + rows.sum(axis=0))} if len(rows) else dict(acc)

    def merge(self, accs: Iterable[Accumulator]) -> Accumulator:
        parts = [acc["all"] for acc in accs if "all" in acc]
        return {"all": (sum(part[0] for part in parts), sum(part[1] for part in parts))} if parts else {}

    def fit(self, acc: Accumulator, model: Any) -> Any:
        if "all" not in acc:
            raise NotEnoughSamplesError("There are no samples.")
        return (acc["all"][1] / acc["all"][0]).astype(np.float64)


class LastMerged(Distance):
    """Keeps only the last part."""

    def merge(self, accs: Iterable[Accumulator]) -> Accumulator:
        parts = [acc for acc in accs if "all" in acc]
        return dict(parts[-1]) if parts else {}


class NoDict(Distance):
    """Its accumulator's keys are no text."""

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: Any) -> Accumulator:
        return without_text(super().add(with_text(acc), batch, model))

    def merge(self, accs: Iterable[Accumulator]) -> Accumulator:
        return without_text(super().merge([with_text(acc) for acc in accs]))

    def fit(self, acc: Accumulator, model: Any) -> Any:
        return super().fit(with_text(acc), model)


def with_text(acc: Any) -> Accumulator:
    return {"all": acc[0]} if acc else {}


def without_text(acc: Any) -> Any:
    return {0: acc["all"]} if acc else {}


class Mutating(Distance):
    """Writes into the accumulator that it was given."""

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: Any) -> Accumulator:
        added = super().add(acc, batch, model)
        acc.update(added)  # type: ignore[attr-defined]  # that is the fault
        return added


class Infinite(Distance):
    """Its scores overflow."""

    def score(self, model: Any, batch: pa.RecordBatch) -> Scores:
        scores = super().score(model, batch)
        return scores._replace(score=np.where(scores.score > 100, np.inf, scores.score))


class FlagsAtRandom(Distance):
    """Its flags are not those of its scores."""

    def score(self, model: Any, batch: pa.RecordBatch) -> Scores:
        scores = super().score(model, batch)
        return scores._replace(flagged=scores.score < scores.threshold)


class Backwards(Distance):
    """Its score is smaller for what is more suspect."""

    def score(self, model: Any, batch: pa.RecordBatch) -> Scores:
        scores = super().score(model, batch)
        return scores._replace(score=-scores.score, flagged=-scores.score > scores.threshold)


class UnsortedEvidence(Distance):
    """Its evidence comes in any order."""

    def evidence(self, model: Any) -> tuple[GroupEvidence, ...]:
        one = super().evidence(model)[0]
        return (one._replace(group="b"), one)


class SilentEvidence(Distance):
    """It flags samples of a group that it calls clean."""

    def evidence(self, model: Any) -> tuple[GroupEvidence, ...]:
        one = super().evidence(model)[0]
        return (one._replace(is_suspicious=False, estimated_count=0.0, count_high=0.0),)


class OddInterval(Distance):
    """Its interval does not hold its estimate."""

    def evidence(self, model: Any) -> tuple[GroupEvidence, ...]:
        return (super().evidence(model)[0]._replace(count_low=2.0),)


class BareError(Distance):
    """It raises an error of Python on no samples."""

    def fit(self, acc: Accumulator, model: Any) -> Any:
        return acc["all"].value() / acc["all"].count


class Crashing(Distance):
    """It divides by nothing on sound data."""

    def evidence(self, model: Any) -> tuple[GroupEvidence, ...]:
        raise ZeroDivisionError


class CarefreeColumns(Distance):
    """It takes NaN for a number."""

    def add(self, acc: Accumulator, batch: pa.RecordBatch, model: Any) -> Accumulator:
        names = batch.schema.names
        if "embedding_self" in names and batch.num_rows:
            column = batch.column(names.index("embedding_self"))
            values = np.nan_to_num(column.flatten().to_numpy(zero_copy_only=False))
            repaired = pa.FixedSizeListArray.from_arrays(pa.array(values), column.type.list_size)
            batch = batch.set_column(names.index("embedding_self"), "embedding_self", repaired)
        return super().add(acc, batch, model)


@pytest.mark.parametrize("case", named(conformance_cases(Distance())))
def test_the_sound_check_keeps_every_rule(case: ConformanceCase) -> None:
    case.run()


@pytest.mark.parametrize(
    ("mutant", "broken"),
    [
        (Unfrozen(), "the_configuration_round_trips"),
        (Unpicklable(), "pickling_changes_nothing"),
        (RoundedAlongTheWay(), "batches_and_order_do_not_matter"),
        (LastMerged(), "merge_is_associative_and_commutative"),
        (NoDict(), "any_part_of_an_accumulator_is_one"),
        (Mutating(), "add_and_merge_change_no_argument"),
        (Infinite(), "scores_are_finite_and_flags_follow"),
        (FlagsAtRandom(), "scores_are_finite_and_flags_follow"),
        (Backwards(), "planted_rows_rank_first"),
        (UnsortedEvidence(), "evidence_is_sorted_and_agrees_with_flags"),
        (SilentEvidence(), "evidence_is_sorted_and_agrees_with_flags"),
        (OddInterval(), "evidence_is_sorted_and_agrees_with_flags"),
        (Crashing(), "evidence_is_sorted_and_agrees_with_flags"),
        (BareError(), "no_samples_end_in_an_answer_or_a_named_error"),
        (CarefreeColumns(), "bad_columns_are_refused"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_check_that_breaks_a_rule_is_caught_by_its_case(mutant: Check, broken: str) -> None:
    case = next(case for case in conformance_cases(mutant) if case.name == broken)

    with pytest.raises(ConformanceError) as caught:
        case.run()

    assert caught.value.case == broken
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("family", ["label_noise", "backdoor_dirty_label", "bad_source", "something_else"])
def test_what_is_planted_follows_from_what_the_check_covers(family: str) -> None:
    data = planted_for(frozenset({family}))

    assert 0 < data.is_bad.sum() < data.batch.num_rows
    if family == "bad_source":
        sources = np.array(data.batch["source"].to_pylist())
        assert set(sources[data.is_bad]) == {"source-bad"}
        assert "source-bad" not in set(sources[~data.is_bad])


def test_every_rule_has_a_mutant_and_a_sentence() -> None:
    cases = conformance_cases(Distance())

    assert len({case.name for case in cases}) == len(cases) == 11
    assert all(case.rule.endswith(".") for case in cases)


def test_equal_values_have_the_same_bits() -> None:
    check = Distance()

    assert same_bits({"a": np.arange(3), "b": {1, 2}}, {"b": {2, 1}, "a": np.arange(3)})
    assert not same_bits(np.arange(3), np.arange(3.0))
    assert not same_bits(0.0, -0.0)
    assert same_bits(check, replace(check))
    assert not same_bits(check, replace(check, cut=1.0))
    assert same_bits([None, b"x", pa.array(["a"])], [None, b"x", pa.array(["a"])])
