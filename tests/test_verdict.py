"""The verdict: canonical, stable, and never with samples that do not add up."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millcert.errors import InternalError
from millcert.verdict import (
    CheckSummary,
    ClusterSummary,
    ExpectationSummary,
    Reason,
    SampleCounts,
    SourceSummary,
    Verdict,
    canonical_value,
    verdict_from_mapping,
)


def make_verdict() -> Verdict:
    return Verdict(
        version=1,
        dataset="small",
        decision="rejected",
        reasons=(Reason("check.over_limit", "too many"),),
        policy_digest="aa",
        trusted_root_sha256="",
        code_version="millcert/0.1.0",
        schema_id="bb",
        input_root="cc",
        output_root="",
        files=1,
        size_bytes=10,
        reads=4,
        samples=SampleCounts(10, 7, 2, 1, 0),
        sources=(SourceSummary("north", "verified", "a@b.example", "https://i.example", "", "dd", 1, 10, 2, 1),),
        expectations=ExpectationSummary(
            "ee", success=True, evaluated=1, unsuccessful=0, on_failure="reject", outcomes=()
        ),
        checks=(
            CheckSummary(
                name="label_noise",
                version="1",
                config_digest="ff",
                severity="warn",
                status="warned",
                scored=9,
                flagged=2,
                flagged_fraction=2 / 9,
                max_flagged_fraction=0.1,
                on_flagged="report",
                over_limit="warn",
                message="",
                groups=1,
                suspicious_groups=1,
                estimated_count=2.5,
                evidence=({"group": "0", "statistic": {"d": 1 / 3}},),
            ),
        ),
        not_covered=("duplicate_flood",),
    )


def test_samples_that_do_not_add_up_are_a_bug_and_no_verdict() -> None:
    with pytest.raises(InternalError, match="do not add up"):
        SampleCounts(seen=10, admitted=7, quarantined=2, malformed=2, unknown_provenance=0)


def test_a_verdict_survives_its_own_json() -> None:
    verdict = make_verdict()

    again = verdict_from_mapping(verdict.to_mapping())

    assert again.to_json() == verdict.to_json()
    assert again.digest == verdict.digest


def test_every_field_of_a_verdict_is_in_its_digest() -> None:
    verdict = make_verdict()
    others = (
        replace(verdict, decision="admitted"),
        replace(verdict, reasons=()),
        replace(verdict, input_root="00"),
        replace(verdict, samples=SampleCounts(10, 6, 3, 1, 0)),
        replace(verdict, checks=(replace(verdict.checks[0], flagged=3),)),
        replace(verdict, not_covered=()),
    )

    assert len({verdict.digest, *(other.digest for other in others)}) == len(others) + 1


@pytest.mark.parametrize(("decision", "code"), [("admitted", 0), ("rejected", 1), ("inconclusive", 4)])
def test_each_decision_has_its_exit_code(decision: str, code: int) -> None:
    assert replace(make_verdict(), decision=decision).exit_code == code  # type: ignore[arg-type]


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(min_value=-1e-9, max_value=1e-9))
def test_the_last_bits_of_a_figure_do_not_change_a_verdict(value: float, noise: float) -> None:
    """Rule: figures keep 6 significant digits, so that another machine's last bits do not change the digest."""
    shown = float(canonical_value(value))

    assert math.isclose(shown, value, rel_tol=1e-5, abs_tol=5e-324)
    assert canonical_value(shown) == canonical_value(value)
    assert canonical_value(1.25 * (1 + noise)) == 1.25


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_json_has_no_number_for_is_kept_as_text(value: float) -> None:
    assert canonical_value({"x": value}) == {"x": str(value)}


def test_integers_beyond_what_json_keeps_become_text() -> None:
    assert canonical_value([2**53, 2**53 + 1, True]) == [2**53, str(2**53 + 1), True]


def test_a_verdict_refuses_values_that_have_no_canonical_form() -> None:
    with pytest.raises(InternalError, match="set"):
        canonical_value({1, 2})


def test_a_verdict_of_version_1_keeps_its_bytes() -> None:
    """Verdicts are in certificates that must verify for ever."""
    verdict = make_verdict()

    mapping = verdict.to_mapping()

    assert mapping["version"] == 1
    assert not {"clusters", "cluster_count"} & set(mapping)
    assert "signer_change" not in mapping["sources"][0]
    assert verdict_from_mapping(mapping).digest == verdict.digest


def test_the_digest_of_failing_rows_is_in_the_verdicts_and_older_ones_keep_their_bytes() -> None:
    older = make_verdict()
    assert older.expectations is not None
    newer = replace(older, expectations=replace(older.expectations, failing_rows=3, rows_digest="ab"))

    assert not {"failing_rows", "rows_digest"} & set(older.to_mapping()["expectations"])
    assert verdict_from_mapping(older.to_mapping()).digest == older.digest
    assert verdict_from_mapping(newer.to_mapping()).digest == newer.digest != older.digest


def test_a_verdict_of_version_2_survives_its_own_json_with_its_clusters() -> None:
    cluster = ClusterSummary(
        "backdoor", "reject", "reject", "0", "lab", {"0": 9}, {"lab": 9}, 9, {"a": 9, "b": 4}, ("a",), 9.5, 8.0, 11.0,
        None, {"a": {"d": math.inf}},
    )  # fmt: skip
    verdict = replace(make_verdict(), version=2, clusters=(cluster,), cluster_count=3)

    again = verdict_from_mapping(verdict.to_mapping())

    assert again.digest == verdict.digest
    assert again.clusters[0].votes == {"a": 9, "b": 4}
    assert verdict.to_mapping()["clusters"][0]["figures"] == {"a": {"d": "inf"}}


@pytest.mark.parametrize("changes", [{"version": 3}, {"cluster_count": 1}])
def test_a_verdict_of_no_known_version_is_none(changes: dict[str, int]) -> None:
    with pytest.raises(InternalError, match="version"):
        replace(make_verdict(), **changes)  # type: ignore[arg-type]


def test_a_verdict_of_version_2_that_lacks_its_clusters_is_refused() -> None:
    mapping = make_verdict().to_mapping() | {"version": 2}

    with pytest.raises(KeyError, match="cluster"):
        verdict_from_mapping(mapping)
