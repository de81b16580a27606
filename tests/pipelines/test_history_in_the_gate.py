"""`reference: last_admitted`: what a source was like in its last admitted version decides, where the policy asks."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from millcert.errors import DigestMismatchError, IntegrityError, PolicyError, StoreError
from millcert.verdict import verdict_from_mapping

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any


def table(seed: int, at: int, bad: int = 0) -> pa.Table:
    """Return 3 classes of one of two sources that are unlike each other; some of class 0 lie elsewhere."""
    rng = np.random.default_rng(10 * seed + at)
    label = rng.integers(0, 3, 900)
    embedding = rng.normal(size=(900, 6)) + 6 * np.eye(6)[label] + np.linspace(-1, 1, 6) * at
    embedding[np.flatnonzero(label == 0)[:bad]] += 5 * np.array([0, 0, 0, 0, 0.6, 0.8])
    return pa.table(
        {
            "label": pa.array(label, pa.int64()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embedding.astype(np.float32).reshape(-1)), 6),
        }
    )


def fill(bench: Workbench, seed: int, bad: int = 0) -> None:
    for source in ("north", "south"):
        for path in [*(bench.data / source).glob("*.*"), *(bench.data / source / "deep").glob("*")]:
            path.unlink()
    for at, source in enumerate(("north", "south")):
        bench.write(source, "a.parquet", table(seed, at, bad * at))
        bench.sign(source)


def rule(**fields: Any) -> dict[str, Any]:
    return {"check": "source_shift", "max_flagged_fraction": 0.05, **fields}


@pytest.fixture
def compared(bench: Workbench) -> Workbench:
    bench.policy["checks"] = [rule(reference="last_admitted")]
    fill(bench, 1)
    return bench


def test_a_source_that_moved_since_the_last_admitted_version_is_rejected_by_name(compared: Workbench) -> None:
    first = compared.vet().verdict
    (check,) = first.checks
    assert first.decision == "admitted"
    assert (check.reference, check.message) == ("", "no admitted version to compare with")

    fill(compared, 2)
    second = compared.vet(replace=True).verdict
    assert second.decision == "admitted"
    assert len(second.checks[0].reference) == 64

    fill(compared, 3, bad=120)
    third = compared.vet(replace=True).verdict
    assert third.decision == "rejected"
    assert [reason.code for reason in third.reasons] == ["cluster.bad_source"]
    assert [(one.kind, one.source, one.label) for one in third.clusters] == [("bad_source", "south", "0")]
    assert "moved since the last admitted version: south" in third.checks[0].message
    assert third.checks[0].reference != second.checks[0].reference
    assert verdict_from_mapping(third.to_mapping()).to_json() == third.to_json()
    # A rejected version is no reference.
    fill(compared, 4)
    fourth = compared.vet(replace=True).verdict
    assert (fourth.decision, fourth.checks[0].reference) == ("admitted", third.checks[0].reference)


def test_without_a_reference_in_the_policy_nothing_is_kept_and_the_digest_is_that_of_the_data_alone(
    compared: Workbench,
) -> None:
    compared.policy["checks"] = [rule()]
    first = compared.vet().verdict

    assert compared.vet(replace=True).verdict.digest == first.digest
    assert "reference" not in compared.verdict()["checks"][0]
    assert not (compared.out / "history.json").exists()
    assert not (compared.top / "state" / "history").exists()


def test_two_runs_beside_each_other_under_one_history_have_one_digest(compared: Workbench) -> None:
    compared.vet()
    fill(compared, 2, bad=120)

    one = compared.vet(replace=True).verdict
    again = compared.vet(replace=True).verdict  # the first was rejected, so the history is the same

    assert one.decision == "rejected"
    assert again.digest == one.digest


def test_another_configuration_has_no_history(compared: Workbench) -> None:
    compared.vet()
    compared.policy["checks"] = [rule(reference="last_admitted", config={"max_directions": 4})]

    (check,) = compared.vet(replace=True).verdict.checks

    assert (check.reference, check.message) == ("", "no admitted version to compare with")


def test_kept_history_that_is_gone_or_changed_refuses_the_run(compared: Workbench) -> None:
    compared.vet()
    (kept,) = (compared.top / "state" / "history").iterdir()
    assert kept.read_bytes() == (compared.out / "history.json").read_bytes()
    data = kept.read_bytes()

    kept.write_bytes(data.replace(b'"labels"', b'"lapels"'))
    with pytest.raises(DigestMismatchError, match="ledger says"):
        compared.vet(replace=True)
    kept.unlink()
    with pytest.raises(StoreError, match="cannot be read"):
        compared.vet(replace=True)


def test_a_history_of_another_form_is_refused() -> None:
    from millcert.pipelines.history import _load

    for broken in ({"version": 2, "checks": {}}, {"version": 1, "checks": []}, {"version": 1, "checks": {"a": 1}}):
        with pytest.raises(IntegrityError):
            _load(json.dumps(broken).encode())


def test_a_check_that_keeps_nothing_has_no_reference(compared: Workbench) -> None:
    compared.policy["checks"] = [{"check": "label_noise", "max_flagged_fraction": 0.5, "reference": "last_admitted"}]

    with pytest.raises(PolicyError, match="keeps nothing of a version"):
        compared.vet()


@pytest.mark.slow
def test_a_moved_source_is_the_same_on_beam(compared: Workbench) -> None:
    compared.vet()
    fill(compared, 2, bad=120)
    plain = compared.vet(replace=True).verdict

    on_beam = compared.vet(replace=True, on_beam=True).verdict

    assert on_beam.digest == plain.digest
