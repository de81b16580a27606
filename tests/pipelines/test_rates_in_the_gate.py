"""Rates of a run: kept of admitted versions, compared with the next one, and never a raw count that rejects."""

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from millcert.checks.rate_history import Rate, Rates
from millcert.errors import DigestMismatchError, IntegrityError, PolicyError, StoreError
from millcert.pipelines.rating import KeptRates, load_rates, rates_bytes
from millcert.pipelines.reference import rates_path
from millcert.report.build import build_report
from millcert.verdict import verdict_from_mapping

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any


def table(rows: int, seed: int, flips: float) -> pa.Table:
    """Return 3 separate classes; some of class 0 are labelled 1."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 3, rows)
    embedding = (rng.normal(size=(rows, 6)) + 6 * np.eye(6)[true]).astype(np.float32)
    label = np.where((true == 0) & (rng.random(rows) < flips), 1, true)
    return pa.table(
        {
            "label": pa.array(label, pa.int64()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embedding.reshape(-1)), 6),
        }
    )


def fill(bench: Workbench, *, seed: int, flips: float = 0.03, rows: int = 1200) -> None:
    for path in (bench.data / "north" / "deep").glob("*"):
        path.unlink()
    for source, at in (("north", 0), ("south", 1)):
        for path in (bench.data / source).glob("*.*"):
            path.unlink()
        bench.write(source, "a.parquet", table(rows, 10 * seed + at, flips))
        bench.sign(source)


def rule(**fields: Any) -> dict[str, Any]:
    return {"check": "label_noise", "max_flagged_fraction": 0.5, "config": {"refine": 0}, **fields}


@pytest.fixture
def rated(bench: Workbench) -> Workbench:
    bench.policy["checks"] = [rule(on_rise="reject")]
    fill(bench, seed=1)
    return bench


def test_labels_doubted_as_often_as_in_the_last_admitted_version_are_admitted_and_more_often_rejected(
    rated: Workbench,
) -> None:
    first = rated.vet().verdict
    assert first.rates is not None
    assert (first.decision, first.rates.reference, first.rates.compared) == ("admitted", "", 0)

    fill(rated, seed=2)
    second = rated.vet(replace=True).verdict
    assert second.rates is not None
    assert (second.decision, second.rates.reference, second.rates.risen) == ("admitted", first.rates_digest, 0)
    assert second.rates.compared >= 2

    fill(rated, seed=3, flips=0.15)
    third = rated.vet(replace=True).verdict
    assert third.decision == "rejected"
    assert third.rates is not None
    assert third.rates.reference == second.rates_digest
    assert [reason.code for reason in third.reasons] == ["rates.risen"]
    assert sorted(list(rise["name"]) for rise in third.rates.rises) == [[], ["1", "0"]]
    assert all(rise["p_value"] < 0.01 for rise in third.rates.rises)
    assert verdict_from_mapping(third.to_mapping()).to_json() == third.to_json()
    # A rejected version is no reference.
    fill(rated, seed=4)
    fourth = rated.vet(replace=True).verdict
    assert fourth.rates is not None
    assert fourth.rates.reference == second.rates_digest


def test_without_a_rule_rates_are_kept_and_the_verdict_does_not_depend_on_what_was_admitted_before(
    rated: Workbench,
) -> None:
    rated.policy["checks"] = [rule()]
    first = rated.vet().verdict

    again = rated.vet(replace=True).verdict

    assert again.digest == first.digest
    assert again.rates is None
    assert again.rates_digest
    rated.policy["checks"] = [rule(on_rise="warn")]
    assert rated.vet(replace=True).verdict.rates.reference == first.rates_digest  # type: ignore[union-attr]


def test_a_tolerated_rise_that_nothing_is_compared_with_is_refused(rated: Workbench) -> None:
    rated.policy["checks"] = [rule(tolerated_rise=0.1)]

    with pytest.raises(PolicyError, match="no on_rise"):
        rated.vet()


def test_a_rise_is_told_and_rejects_nothing_where_the_policy_warns(rated: Workbench) -> None:
    rated.policy["checks"] = [rule(on_rise="warn")]
    rated.vet()
    fill(rated, seed=3, flips=0.15)

    verdict = rated.vet(replace=True).verdict

    assert verdict.decision == "admitted"
    assert verdict.rates is not None
    assert verdict.rates.risen
    (check,) = verdict.checks
    assert check.status == "warned"
    assert "1 -> 0" in check.message
    assert "last admitted version" in check.message


def test_what_the_policy_tolerates_and_another_configuration_are_no_rise(rated: Workbench) -> None:
    rated.vet()
    fill(rated, seed=3, flips=0.15)

    rated.policy["checks"] = [rule(on_rise="reject", tolerated_rise=0.2)]
    assert rated.vet(replace=True).verdict.rates.risen == 0  # type: ignore[union-attr]
    rated.policy["checks"] = [rule(on_rise="reject", config={"refine": 0, "folds": 4})]
    other = rated.vet(replace=True).verdict.rates

    assert other is not None
    assert (other.compared, other.risen) == (0, 0)
    assert other.new


def test_on_beam_the_rates_are_the_same(rated: Workbench) -> None:
    rated.vet()
    plain = (rated.out / "rates.json").read_bytes()
    (rated.top / "state").rename(rated.top / "state-before")

    rated.vet(on_beam=True, out=rated.top / "again")

    assert (rated.top / "again" / "rates.json").read_bytes() == plain
    assert rates_bytes(load_rates(plain)) == plain


def test_a_count_over_the_limit_that_chance_explains_does_not_reject(rated: Workbench) -> None:
    verdict = rated.vet().verdict
    rate = verdict.checks[0].flagged_fraction
    (rated.top / "state").rename(rated.top / "state-before")

    rated.policy["checks"] = [rule(max_flagged_fraction=rate * 0.95, over_limit="reject")]
    assert rated.vet(replace=True).verdict.decision == "admitted"
    (rated.top / "state").rename(rated.top / "state-between")
    rated.policy["checks"] = [rule(max_flagged_fraction=rate * 0.3, over_limit="reject")]
    rejected = rated.vet(replace=True).verdict

    assert [reason.code for reason in rejected.reasons] == ["check.over_limit"]


def test_a_reference_that_is_gone_or_changed_is_never_passed_over(rated: Workbench) -> None:
    digest = rated.vet().verdict.rates_digest
    path = rates_path(rated.top / "state", digest)
    data = path.read_bytes()

    path.write_bytes(data.replace(b'"version":1', b'"version":2'))
    with pytest.raises(DigestMismatchError, match="rates"):
        rated.vet(replace=True)
    path.unlink()
    with pytest.raises(StoreError, match=r"rates\.json|rates of the last"):
        rated.vet(replace=True)
    path.write_bytes(data)

    assert rated.vet(replace=True).verdict.rates.reference == digest  # type: ignore[union-attr]


def test_a_check_without_rates_takes_no_rule_about_them(bench: Workbench) -> None:
    bench.policy["checks"] = [{"check": "source_shift", "max_flagged_fraction": 0.5, "on_rise": "warn"}]

    with pytest.raises(PolicyError, match="keeps no rates"):
        bench.vet()


def test_findings_say_what_they_suggest_and_the_report_shows_it(rated: Workbench) -> None:
    fill(rated, seed=5, flips=0.1)

    rated.vet(render_report=partial(build_report, images={}))

    found = pq.read_table(rated.out / "findings.parquet").to_pylist()
    assert found
    for row in found:
        assert row["suggested_label"] not in {None, row["label"]}
        assert 0 <= row["given_probability"] < row["suggested_probability"] <= 1
        assert row["score"] == 1 - row["given_probability"]
        assert len(row["neighbours"]) == 3
        distances = [near["distance"] for near in row["neighbours"]]
        assert distances == sorted(distances)
    right = [row for row in found if row["neighbours"][0]["label"] == row["suggested_label"]]
    assert len(right) > 0.9 * len(found)
    report = (rated.out / "report.html").read_text()
    assert "the given label has probability" in report
    assert "Near it" in report


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw | {"version": 2},
        lambda raw: {"version": 1},
        lambda raw: raw | {"checks": {"label_noise": {"version": "3"}}},
        lambda raw: raw | {"checks": {"label_noise": raw["checks"]["label_noise"] | {"rates": [["a"]]}}},
        lambda raw: raw | {"more": 1},
    ],
)
def test_a_damaged_file_of_rates_is_refused(change: Any) -> None:
    kept = KeptRates("3", "00", Rates((Rate((), 9, 1), Rate(("a", "b"), 4, 1)), 0, ((("a",), 4), (("b",), 5))))
    raw = json.loads(rates_bytes({"label_noise": kept}))

    with pytest.raises(IntegrityError):
        load_rates(json.dumps(change(raw)).encode())

    assert load_rates(rates_bytes({"label_noise": kept})) == {"label_noise": kept}
