"""Drift expectations: a suite that holds them, judged by GX on the merged profiles of any number of rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.drift_question import DRIFT_EXPECTATIONS, DriftQuestion, DriftSides
from millcert.checks.expectations import SuiteResult, evaluate_suite, load_suite, plan_suite
from millcert.checks.profile import Profile, ProfileSpec, add_batch, empty_profile
from millcert.checks.profile_format import profile_bytes, profile_digest
from millcert.errors import InconclusiveError, PolicyError

SPEC = ProfileSpec("5a" * 32, label="label", source="source", tokens=("text",))


def rows(seed: int, *, shift: float = 0.0, sources: int = 2, count: int = 4000) -> pa.RecordBatch:
    random = np.random.default_rng(seed)
    return pa.RecordBatch.from_pydict(
        {
            "source": pa.array([f"s{code}" for code in random.integers(0, sources, count)]),
            "label": pa.array([f"l{code}" for code in random.integers(0, 3, count)]),
            "x": random.normal(shift, 1, count),
            "text": pa.array([f"w{code} v{code % 7}" for code in random.integers(0, 40, count)]),
        }
    )


def profile(batch: pa.RecordBatch) -> Profile:
    return add_batch(empty_profile(SPEC, batch.schema), batch)


def expectation(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": name, "kwargs": {"reference": "reference.json", **kwargs}, "severity": "critical"}


ASKED = [
    expectation("expect_column_drift_to_be_within", column="x"),
    expectation("expect_column_drift_to_be_within", column="x", source="", measure="wasserstein", limit=0.02),
    expectation("expect_column_drift_to_be_within", column="label"),
    expectation("expect_label_given_source_to_be_within"),
    expectation("expect_sources_to_be_those_of_reference"),
    expectation("expect_tokens_to_be_tied_to_labels_as_in_reference", column="text"),
    {"type": "expect_column_values_to_not_be_null", "kwargs": {"column": "x"}},
]


def judge(current: pa.RecordBatch, reference: Profile | None, *asked: dict[str, Any]) -> SuiteResult:
    suite = load_suite(json.dumps({"name": "suite", "expectations": list(asked)}).encode())
    plan = plan_suite(suite, current.schema, references=("reference.json",))
    acc = plan.add(plan.empty(), current, "a", np.arange(current.num_rows))
    digest = "" if reference is None else profile_digest(reference)
    sides = DriftSides(reference, digest, profile(current))
    return evaluate_suite(suite, plan, acc, current.schema, drift=sides)


def test_a_suite_with_drift_expectations_holds_on_rows_like_the_reference() -> None:
    result = judge(rows(2), profile(rows(1)), *ASKED)

    assert result.success
    first = result.json["results"][0]["result"]
    assert 0 <= first["observed_value"] < first["details"]["limit"]
    assert {"measure", "null_quantile", "reference_rows", "current_rows", "alpha"} <= set(first["details"])


def test_what_drifts_is_named_with_its_effect_limit_and_null_quantile() -> None:
    result = judge(rows(2, shift=0.5), profile(rows(1)), *ASKED)

    failed = [one for one in result.outcomes if not one.success]
    assert {one.column for one in failed} == {"x"}
    assert result.critical_failures == 2
    details = result.json["results"][0]["result"]["details"]
    assert details["value"] > details["limit"]
    assert details["value"] > details["null_quantile"]
    assert {one["source"] for one in details["listed"]} == {"", "s0", "s1"}


def test_one_measure_of_one_source_is_asked_with_a_limit_of_its_own() -> None:
    asked = [
        expectation("expect_column_drift_to_be_within", column="x", source="s1", measure="wasserstein", limit=limit)
        for limit in (0.05, 2.0)
    ]

    result = judge(rows(2, shift=0.5), profile(rows(1)), *asked)

    assert [one.success for one in result.outcomes] == [False, True]
    details = result.json["results"][1]["result"]["details"]
    assert (details["source"], details["measure"], details["limit"], details["compared"]) == (
        "s1",
        "wasserstein",
        2.0,
        1,
    )


def test_a_token_that_became_tied_to_a_label_fails_the_expectation_about_it() -> None:
    batch = rows(2)
    words, label = batch.column("text").to_pylist(), batch.column("label").to_pylist()
    planted = ["cf " + word if at % 100 == 0 else word for at, word in enumerate(words)]
    pushed = ["l0" if at % 100 == 0 else each for at, each in enumerate(label)]
    poisoned = batch.set_column(3, "text", pa.array(planted)).set_column(1, "label", pa.array(pushed))

    result = judge(
        poisoned,
        profile(rows(1)),
        expectation("expect_tokens_to_be_tied_to_labels_as_in_reference", column="text"),
        expectation("expect_column_drift_to_be_within", column="label"),
    )

    assert [one.success for one in result.outcomes] == [False, True]
    details = result.json["results"][0]["result"]["details"]
    assert details["detail"].endswith("label l0")
    assert (details["drifting"], details["reference_rows"], details["current_rows"]) == (1, 0, 40)


def test_a_new_source_and_a_silent_one_are_named() -> None:
    asked = expectation("expect_sources_to_be_those_of_reference")

    more = judge(rows(2, sources=3), profile(rows(1)), asked)
    fewer = judge(rows(2), profile(rows(1, sources=3)), asked)

    assert more.json["results"][0]["result"]["details"]["new"] == ["s2"]
    assert fewer.json["results"][0]["result"]["details"]["silent"] == ["s2"]
    assert not more.success
    assert not fewer.success


def test_a_column_that_changed_its_type_does_not_hold() -> None:
    batch = rows(1)
    retyped = batch.set_column(2, "x", batch.column("x").cast(pa.float32()))

    result = judge(retyped, profile(batch), expectation("expect_column_drift_to_be_within", column="x"))

    assert not result.success
    assert result.json["results"][0]["result"]["details"]["changed"] == "x: double -> float"


def test_a_column_that_the_reference_lacks_does_not_hold() -> None:
    batch = rows(1)
    before = profile(batch.drop_columns(["x"]))

    result = judge(batch, before, expectation("expect_column_drift_to_be_within", column="x"))

    assert result.json["results"][0]["result"]["details"]["changed"] == "the reference has no such column"


def test_what_cannot_be_compared_is_inconclusive_and_not_a_success() -> None:
    asked = expectation("expect_column_drift_to_be_within", column="x", source="s9")

    with pytest.raises(InconclusiveError, match="Nothing about x can be compared"):
        judge(rows(2), profile(rows(1)), asked)


def test_without_any_profiles_the_suite_is_inconclusive() -> None:
    batch = rows(1)
    suite = load_suite(json.dumps({"name": "suite", "expectations": ASKED[:1]}).encode())
    plan = plan_suite(suite, batch.schema, references=("reference.json",))

    with pytest.raises(InconclusiveError, match="no reference profile"):
        evaluate_suite(suite, plan, plan.empty(), batch.schema)


def test_a_first_version_that_the_policy_lets_in_uncompared_holds_and_says_so() -> None:
    result = judge(rows(1), None, *ASKED[:6])

    assert result.success
    assert result.json["results"][0]["result"]["details"] == {"reference": "", "compared": 0}


@pytest.mark.parametrize(
    ("references", "kwargs", "fault"),
    [
        ((), {}, "no reference profile is given"),
        (("other.json", "ab" * 32), {}, "drift.reference is other.json or abab"),
        (("reference.json",), {"measure": "psi"}, "Unknown measure 'psi'"),
        (("reference.json",), {"limit": 0.1}, "needs the measure"),
        (("reference.json",), {"measure": "wasserstein", "limit": -1}, "out of its range"),
        (("reference.json",), {"family_alpha": 1.0}, "out of its range"),
        (("reference.json",), {"row_condition": "x > 1"}, "refuses it"),
        (("reference.json",), {"column": "y"}, "has no column 'y'"),
    ],
)
def test_a_drift_expectation_that_has_no_meaning_here_is_refused_before_the_data_are_read(
    references: tuple[str, ...], kwargs: dict[str, Any], fault: str
) -> None:
    asked = expectation("expect_column_drift_to_be_within", **{"column": "x", **kwargs})
    suite = load_suite(json.dumps({"name": "suite", "expectations": [asked]}).encode())

    with pytest.raises(PolicyError, match=fault):
        plan_suite(suite, rows(1).schema, references=references)


def test_a_question_about_something_else_is_refused() -> None:
    with pytest.raises(PolicyError, match="asked about column, label, tokens, sources"):
        DriftQuestion("rows", "reference.json")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")
def test_gx_itself_loads_saves_and_judges_such_a_suite_on_a_frame_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import great_expectations as gx
    from great_expectations.core.expectation_suite import ExpectationSuite

    from millcert.checks.expectations_drift import (
        ExpectColumnDriftToBeWithin,
        ExpectLabelGivenSourceToBeWithin,
        ExpectSourcesToBeThoseOfReference,
        ExpectTokensToBeTiedToLabelsAsInReference,
    )

    monkeypatch.chdir(tmp_path)
    reference, batch = profile(rows(1)), rows(2, shift=0.5)
    (tmp_path / "reference.json").write_bytes(profile_bytes(reference))
    suite = ExpectationSuite(
        name="suite",
        expectations=[
            ExpectColumnDriftToBeWithin(column="x", reference="reference.json"),
            ExpectColumnDriftToBeWithin(column="label", reference="reference.json", source="s1"),
            ExpectLabelGivenSourceToBeWithin(reference="reference.json"),
            ExpectSourcesToBeThoseOfReference(reference="reference.json"),
            ExpectTokensToBeTiedToLabelsAsInReference(column="text", reference="reference.json", limit=0.2),
        ],
    )
    saved = json.dumps(suite.to_json_dict())
    context = gx.get_context(mode="ephemeral")
    frame = context.data_sources.add_pandas("p").add_dataframe_asset("a").add_batch_definition_whole_dataframe("b")
    loaded = ExpectationSuite(**json.loads(saved))

    theirs = frame.get_batch({"dataframe": batch.to_pandas()}).validate(loaded, result_format="SUMMARY")
    ours = judge(batch, reference, *json.loads(saved)["expectations"])

    def shown(result: Any) -> list[Any]:
        return [(one["expectation_config"]["type"], one["success"], one["result"]) for one in result["results"]]

    assert shown(ours.json) == shown(json.loads(json.dumps(theirs.to_json_dict())))
    assert {one["type"] for one in json.loads(saved)["expectations"]} == set(DRIFT_EXPECTATIONS)


@pytest.mark.filterwarnings("ignore")
def test_in_gx_a_reference_that_is_not_there_is_an_exception_and_not_a_success() -> None:
    import great_expectations as gx

    from millcert.checks.expectations_drift import ExpectColumnDriftToBeWithin

    context = gx.get_context(mode="ephemeral")
    frame = context.data_sources.add_pandas("p").add_dataframe_asset("a").add_batch_definition_whole_dataframe("b")

    result = frame.get_batch({"dataframe": rows(1).to_pandas()}).validate(
        ExpectColumnDriftToBeWithin(column="x", reference="none-such.json")
    )

    assert not result.success
    assert "cannot be read" in str(result.exception_info)
