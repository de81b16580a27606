"""The conformance suite: what every check must keep, ours and third parties', as named cases without a test framework.

    for case in conformance_cases(check):
        case.run()                          # raises ConformanceError, which says what was broken and how

The rules are those of `millcert.checks.base`; each case tries to falsify one on small planted data. `millcert check
conform NAME` runs them, and so do our tests, for every registered check and for a broken check a rule.
"""

import io
import pickle  # noqa: TID251 - rule 1 is about pickling; only what was pickled a line above is read
from collections.abc import Callable, Iterable, Sequence
from dataclasses import FrozenInstanceError, dataclass, fields
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from millcert.checks.base import Accumulator, Check, Scores, fit_check
from millcert.checks.conformance_data import PlantedData, clean_data, planted_for
from millcert.checks.registry import build_check, config_of
from millcert.errors import MillcertError

#: Planted rows must rank above clean ones with at least this area under the ROC curve.
LEAST_AUROC = 0.95


class ConformanceError(MillcertError):
    """A check breaks a rule that every check keeps. `case` names the rule's case."""

    code: ClassVar[str] = "check.not_conforming"
    exit_code: ClassVar[int] = 1


@dataclass(frozen=True)
class ConformanceCase:
    """One rule for one check.

    name: lower_snake_case, unique in the suite.
    rule: the rule, as a sentence.
    run: raises ConformanceError where the check breaks it.
    """

    name: str
    rule: str
    run: Callable[[], None]


def conformance_cases(check: Check) -> tuple[ConformanceCase, ...]:
    """Return the suite for a check with its configuration.

    Cost: about 1 second a case for 480 samples of 12 columns.
    """
    return tuple(
        ConformanceCase(name.removeprefix("_check_"), rule, partial(_run, name.removeprefix("_check_"), run, check))
        for name, rule, run in ((run.__name__, (run.__doc__ or "").strip().splitlines()[0], run) for run in _CASES)
    )


def _run(name: str, case: Callable[[Check], None], check: Check) -> None:
    """Run a case; whatever else the check raises breaks the case too."""
    try:
        case(check)
    except ConformanceError:
        raise
    except Exception as error:
        raise _broken(name, f"the check raises {type(error).__name__}: {error}") from error


def same_bits(one: object, other: object) -> bool:
    """Return whether two values are equal to the last bit: compares what pickling would write of them."""
    return _canonical_bytes(one) == _canonical_bytes(other)


def _check_the_configuration_round_trips(check: Check) -> None:
    """A check is equal to the one made of its configuration, and its fields cannot be set."""
    _expect(build_check(type(check), config_of(check)) == check, "the_configuration_round_trips", "it is another check")
    _expect(
        hash(check) == hash(build_check(type(check), config_of(check))), "the_configuration_round_trips", "hash differs"
    )
    for field in fields(check):  # type: ignore[arg-type]  # a check is a dataclass
        try:
            setattr(check, field.name, getattr(check, field.name))
        except FrozenInstanceError:
            continue
        raise _broken("the_configuration_round_trips", f"its field {field.name} can be set: it is not frozen")


def _check_pickling_changes_nothing(check: Check) -> None:
    """A check, its accumulators and its model survive pickling: the copies give the same scores to the last bit."""
    data = _bad_data(check)
    copy = pickle.loads(pickle.dumps(check))  # noqa: S301 - just written
    _expect(copy == check, "pickling_changes_nothing", "the copy of the check is another check")
    model = None
    for _ in range(check.passes):
        acc = _added(check, data.batches(100), model)
        model = pickle.loads(pickle.dumps(check.fit(pickle.loads(pickle.dumps(acc)), model)))  # noqa: S301 - just written
    expected = _scores(check, fit_check(check, data.batches(100)), data.batches(100))
    _expect_same("pickling_changes_nothing", _scores(copy, model, data.batches(100)), expected, "after pickling")


def _check_batches_and_order_do_not_matter(check: Check) -> None:
    """The same samples in any batches and any order give the same scores to the last bit."""
    data = _bad_data(check)
    expected = _scores(check, fit_check(check, data.batches(480)), data.batches(480))
    order = np.random.default_rng(5).permutation(data.batch.num_rows)
    shuffled = PlantedData(data.batch.take(pa.array(order)), data.is_bad[order])
    back = np.argsort(order)
    for size in (1, 7, 64):
        found = _scores(check, fit_check(check, data.batches(size)), data.batches(size))
        _expect_same("batches_and_order_do_not_matter", found, expected, f"in batches of {size}")
    found = _scores(check, fit_check(check, shuffled.batches(33)), shuffled.batches(33))
    group = found.group.take(pa.array(back))
    restored = Scores(found.score[back], found.threshold[back], found.flagged[back], group, found.reason)
    _expect_same("batches_and_order_do_not_matter", restored, expected, "in another order")


def _check_merge_is_associative_and_commutative(check: Check) -> None:
    """Accumulators merged in any order and grouping give one model, to the last bit."""
    for acc, model, parts in _passes_in_parts(check):
        expected = check.fit(acc, model)
        first, second, third = parts
        for merged in (
            check.merge([third, first, second]),
            check.merge([check.merge([first, second]), third]),
            check.merge([first, check.merge([check.empty(), third]), second]),
        ):
            _expect_same_model(check, "merge_is_associative_and_commutative", check.fit(merged, model), expected)


def _check_any_part_of_an_accumulator_is_one(check: Check) -> None:
    """An accumulator splits into one dict a group; merged again, they are the whole: keys can be combined apart."""
    for acc, model, _ in _passes_in_parts(check):
        _expect(
            isinstance(acc, dict) and all(isinstance(key, str) for key in acc), _PART, "it is no dict with text keys"
        )
        singles: list[Accumulator] = [{key: part} for key, part in acc.items()]
        _expect_same_model(check, _PART, check.fit(check.merge(reversed(singles)), model), check.fit(acc, model))


def _check_add_and_merge_change_no_argument(check: Check) -> None:
    """`add` and `merge` return new accumulators and leave their arguments as they were."""
    for _, model, parts in _passes_in_parts(check):
        before = [_canonical_bytes(part) for part in parts]
        check.add(parts[0], _bad_data(check).batches(50)[0], model)
        check.merge(parts)
        check.merge([parts[0]])
        _expect(
            [_canonical_bytes(part) for part in parts] == before,
            "add_and_merge_change_no_argument",
            "an accumulator that was an argument has changed",
        )


def _check_scores_are_finite_and_flags_follow(check: Check) -> None:
    """Scores are finite float64, flags are `score > threshold`, groups are text, all as long as the batch.

    A check of severity "warn" may flag by another rule, which its docstring states; so may one that sets
    `flags_follow_threshold` to False.
    """
    name = "scores_are_finite_and_flags_follow"
    for data in (_bad_data(check), clean_data()):
        scores = _scores(check, fit_check(check, data.batches(100)), data.batches(100))
        rows = data.batch.num_rows
        _expect(scores.score.dtype == np.float64 and scores.score.shape == (rows,), name, "scores are not float64 (n,)")
        _expect(bool(np.isfinite(scores.score).all()), name, "a score is not finite")
        _expect(not np.isnan(scores.threshold).any(), name, "a threshold is NaN")
        _expect(scores.flagged.dtype == np.bool_, name, "flags are not bool")
        if getattr(check, "flags_follow_threshold", check.severity == "reject"):
            follows = np.array_equal(scores.flagged, scores.score > scores.threshold)
            _expect(follows, name, "flagged is not score > threshold")
        _expect(pa.types.is_string(scores.group.type) and not scores.group.null_count, name, "a group is no text")
        _expect(len(scores.group) == rows and bool(scores.reason), name, "groups or the reason are missing")
        suggested = {len(column) for column in scores.suggestions or ()} - {int(scores.flagged.sum())}
        _expect(not suggested, name, "it does not suggest something for each flagged sample and no other")


def _check_planted_rows_rank_first(check: Check) -> None:
    """What the check covers ranks above clean rows: area under the ROC curve at least 0.95 on planted data."""
    data = _bad_data(check)
    score = _scores(check, fit_check(check, data.batches(100)), data.batches(100)).score
    found = _auroc(score, data.is_bad)
    _expect(found >= LEAST_AUROC, "planted_rows_rank_first", f"the area under the ROC curve is {found:.3f}")


def _check_evidence_is_sorted_and_agrees_with_flags(check: Check) -> None:
    """Evidence is sorted by group, once each; flags appear only in groups that it calls suspicious."""
    name = "evidence_is_sorted_and_agrees_with_flags"
    for data in (_bad_data(check), clean_data()):
        model = fit_check(check, data.batches(100))
        evidence = check.evidence(model)
        groups = [item.group for item in evidence]
        _expect(groups == sorted(set(groups)), name, "groups are not sorted, or one comes twice")
        suspicious = {item.group for item in evidence if item.is_suspicious}
        scores = _scores(check, model, data.batches(100))
        flagged = set(scores.group.filter(pa.array(scores.flagged)).to_pylist())
        _expect(flagged <= suspicious, name, f"flags in groups without evidence: {sorted(flagged - suspicious)}")
        for item in evidence:
            _expect(
                0 <= item.count_low <= item.estimated_count <= item.count_high <= item.samples,
                name,
                f"the interval of group {item.group!r} is out of order",
            )
            _expect(item.p_value is None or 0 <= item.p_value <= 1, name, f"p_value of {item.group!r} is none")
            _expect(item.is_suspicious or item.estimated_count == 0, name, f"{item.group!r} has a count, no suspicion")


def _check_no_samples_end_in_an_answer_or_a_named_error(check: Check) -> None:
    """No samples, or samples of one class, give an answer or an error of millcert; empty batches change nothing."""
    name = "no_samples_end_in_an_answer_or_a_named_error"
    data = _bad_data(check)
    one_class = data.batch.filter(pa.array([value == "0" for value in data.batch["label"].to_pylist()]))
    for batches in ([], [data.batch.slice(0, 0)], [one_class], [data.batch.slice(0, 1)]):
        try:
            model = fit_check(check, batches)
            for batch in batches:
                check.score(model, batch)
            check.evidence(model)
        except MillcertError:
            continue
        except Exception as error:
            rows = sum(batch.num_rows for batch in batches)
            raise _broken(name, f"{type(error).__name__} on {rows} rows: {error}") from error
    with_empty = [data.batch.slice(0, 0), *data.batches(100), data.batch.slice(0, 0)]
    expected = _scores(check, fit_check(check, data.batches(100)), data.batches(100))
    _expect_same(name, _scores(check, fit_check(check, with_empty), data.batches(100)), expected, "with empty batches")


def _check_bad_columns_are_refused(check: Check) -> None:
    """A missing column, and a value that is NaN, raise an error of millcert in `add` and in `score`."""
    name = "bad_columns_are_refused"
    data = _bad_data(check)
    model = fit_check(check, data.batches(100))
    bad = [(f"without {role}", data.batch.drop_columns([role])) for role in sorted(check.columns)]
    for role in sorted(check.columns & {"embedding_self", "embedding_external", "pred_probs", "features"}):
        place = data.batch.schema.get_field_index(role)
        values = data.batch.column(place).flatten().to_numpy(zero_copy_only=False).copy()
        values[3] = np.nan
        column = pa.FixedSizeListArray.from_arrays(pa.array(values), data.batch.column(place).type.list_size)
        bad.append((f"with NaN in {role}", data.batch.set_column(place, role, column)))
    for what, batch in bad:
        _expect_refusal(name, what, "add", partial(check.add, check.empty(), batch, None))
        if what != "without source":  # a source is evidence of a group; a score may do without
            _expect_refusal(name, what, "score", partial(check.score, model, batch))


_PART = "any_part_of_an_accumulator_is_one"

_CASES: Sequence[Callable[[Check], None]] = (
    _check_the_configuration_round_trips,
    _check_pickling_changes_nothing,
    _check_batches_and_order_do_not_matter,
    _check_merge_is_associative_and_commutative,
    _check_any_part_of_an_accumulator_is_one,
    _check_add_and_merge_change_no_argument,
    _check_scores_are_finite_and_flags_follow,
    _check_planted_rows_rank_first,
    _check_evidence_is_sorted_and_agrees_with_flags,
    _check_no_samples_end_in_an_answer_or_a_named_error,
    _check_bad_columns_are_refused,
)


def _bad_data(check: Check) -> PlantedData:
    return planted_for(check.covers)


def _added(check: Check, batches: Iterable[pa.RecordBatch], model: Any) -> Accumulator:
    acc = check.empty()
    for batch in batches:
        acc = check.add(acc, batch, model)
    return acc


def _passes_in_parts(check: Check) -> list[tuple[Accumulator, Any, list[Accumulator]]]:
    """Return for each pass the whole accumulator, the model before, and accumulators of three parts of the data."""
    batches = _bad_data(check).batches(40)
    passes, model = [], None
    for _ in range(check.passes):
        parts = [_added(check, batches[start::3], model) for start in range(3)]
        whole = check.merge(parts)
        passes.append((whole, model, parts))
        model = check.fit(whole, model)
    return passes


def _scores(check: Check, model: Any, batches: Sequence[pa.RecordBatch]) -> Scores:
    answers = [check.score(model, batch) for batch in batches]
    return Scores(
        np.concatenate([answer.score for answer in answers]),
        np.concatenate([answer.threshold for answer in answers]),
        np.concatenate([answer.flagged for answer in answers]),
        pa.concat_arrays([answer.group for answer in answers]),
        answers[0].reason,
    )


def _auroc(score: np.ndarray, is_bad: np.ndarray) -> float:
    """Return the chance that a bad row scores above a clean one, ties half."""
    order = np.sort(score[~is_bad])
    below, through = np.searchsorted(order, score[is_bad]), np.searchsorted(order, score[is_bad], side="right")
    return float((below + through).mean() / (2 * len(order)))


def _canonical_bytes(value: object) -> bytes:
    """Return bytes that are equal for equal values: arrays by type, shape and content, dicts by sorted keys."""
    written = io.StringIO()
    _write(value, written)
    return written.getvalue().encode("utf-8", "surrogatepass")


def _write(value: object, out: io.StringIO) -> None:
    if isinstance(value, np.ndarray):
        content = repr(value.tolist()) if value.dtype == object else np.ascontiguousarray(value).tobytes().hex()
        out.write(f"array {value.dtype.str} {value.shape} {content};")
    elif isinstance(value, dict):
        out.write("dict(")
        for key in sorted(value, key=repr):
            _write(key, out)
            _write(value[key], out)
        out.write(")")
    elif isinstance(value, list | tuple):
        out.write(f"{type(value).__name__}(")
        for item in value:
            _write(item, out)
        out.write(")")
    elif isinstance(value, set | frozenset):
        _write(sorted(value, key=repr), out)
    elif isinstance(value, float):
        out.write(f"float {value.hex()};")
    elif isinstance(value, int | str | bytes | bool | None | np.generic):
        out.write(f"{type(value).__name__} {value!r};")
    else:
        out.write(f"{type(value).__qualname__} ")
        _write(_state_of(value), out)


def _state_of(value: object) -> object:
    state = getattr(value, "__dict__", None)
    if state:
        return state
    return [item for item in value.__reduce_ex__(4)[1:3] if not isinstance(item, type)]


def _expect_same(name: str, found: Scores, expected: Scores, when: str) -> None:
    for field in ("score", "threshold", "flagged"):
        one, other = getattr(found, field), getattr(expected, field)
        _expect(one.tobytes() == other.tobytes(), name, f"{field} differs {when}")
    _expect(found.group.equals(expected.group), name, f"groups differ {when}")


def _expect_same_model(check: Check, name: str, found: Any, expected: Any) -> None:
    _expect(same_bits(found, expected), name, f"the model of {check.name} differs")


def _expect_refusal(name: str, what: str, where: str, call: Callable[[], object]) -> None:
    try:
        call()
    except MillcertError:
        return
    except Exception as error:
        raise _broken(name, f"{where} raises {type(error).__name__} for a batch {what}") from error
    raise _broken(name, f"{where} accepts a batch {what}")


def _expect(holds: bool, name: str, fault: str) -> None:  # noqa: FBT001 - reads as a sentence
    if not holds:
        raise _broken(name, fault)


def _broken(name: str, fault: str) -> ConformanceError:
    return ConformanceError(f"{name}: {fault}.", hint="See the rules in millcert.checks.base.", case=name)
