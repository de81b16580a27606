"""Data sorted by class: the parts of all classes fit one worker's memory, and nothing else changes."""

from typing import TYPE_CHECKING, Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest

from millcert.checks import class_moments
from millcert.checks.class_moments import FoldsColumns, final_moments, folded_part, no_rows, tables_of
from millcert.checks.registry import check_class, get_check, list_checks
from millcert.pipelines.fold_parts import _folded, _tables, fold_parts

if TYPE_CHECKING:
    from tests.pipelines.conftest import Workbench
else:
    Workbench = Any


def sorted_table(first: int, seed: int) -> pa.Table:
    """Return rows of 40 columns in 4 classes of their own, in several magnitudes."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(first, first + 4), 60)
    rows = rng.normal(size=(240, 40)) + 8 * np.eye(40)[label]
    rows *= np.where(np.arange(240) % 3 == 0, 64.0, 1.0)[:, None]
    return pa.table(
        {
            "label": pa.array(label, pa.int64()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).reshape(-1)), 40),
        }
    )


@pytest.fixture
def sorted_by_class(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    for source, first in (("north", 0), ("south", 4)):
        for path in [*(bench.data / source).glob("*.*"), *(bench.data / source / "deep").glob("*")]:
            path.unlink()
        bench.write(source, "a.parquet", sorted_table(first, first))
        bench.sign(source)
    bench.policy["dataset"]["columns"] = {"label": "label", "embedding_self": "embedding"}
    bench.policy["checks"] = [
        {"check": "robust_spectral", "max_flagged_fraction": 1, "over_limit": "warn"},
        {"check": "spectral_signatures", "max_flagged_fraction": 1, "over_limit": "warn", "config": {"epsilon": 0.01}},
        {"check": "activation_clustering", "max_flagged_fraction": 1, "over_limit": "warn"},
    ]
    bench.policy["verdict"]["max_quarantined_fraction"] = 1
    bench.policy["verdict"] |= {"on_backdoor": "quarantine"}
    monkeypatch.setattr(class_moments, "BUDGET_BYTES", 8 * 20 * 20 * 16)  # 16 tables of half the columns
    return bench


def test_parts_that_were_folded_on_their_way_give_the_sums_of_those_that_were_not() -> None:
    rng = np.random.default_rng(3)
    parts = {f"{number}": no_rows(512).add_rows(rng.normal(size=(520, 512))) for number in range(12)}
    tables = 1000 * max(map(tables_of, parts.values()))

    folded = {label: folded_part(part, tables) for label, part in parts.items()}

    assert max(part.nbytes for part in folded.values()) * 1000 <= class_moments.BUDGET_BYTES * 1.01
    one, fold = final_moments(folded)
    other, _ = final_moments({label: part.folded(fold) for label, part in parts.items()})
    for label, part in one.items():
        assert part.products().tobytes() == other[label].products().tobytes()


def test_tables_are_counted_for_each_check_and_other_parts_pass_untouched() -> None:
    part = no_rows(64).add_rows(np.random.default_rng(1).normal(size=(3, 64)) * [[1.0], [1.0], [4096.0]])
    most = {"own": 64}

    assert list(_tables((("own", "a"), ("own", {"a": part})), most)) == [("own", tables_of(part))]
    assert tables_of(part) == tables_of(part.settled()) == 2
    assert list(_tables((("other", "a"), ("other", {"a": part})), most)) == []
    same = (("other", "a"), ("other", {"a": 1}))
    assert _folded(same, {"own": 10**6}, most) is same
    key, (name, folded) = _folded((("own", "a"), ("own", {"a": part, "b": 1})), {"own": 10**6}, most)
    assert (key, name, folded["b"]) == (("own", "a"), "own", 1)
    assert folded["a"].fold.folds > part.fold.folds


def test_every_check_of_ours_that_sums_moments_of_classes_folds_them() -> None:
    folding = [
        name
        for name in list_checks()
        if isinstance(get_check(name, {"epsilon": 0.01} if name == "spectral_signatures" else {}), FoldsColumns)
    ]

    assert [name for name in folding if check_class(name).__module__.startswith("millcert.")] == [
        "activation_clustering",
        "robust_spectral",
        "spectral_signatures",
    ]


def test_without_such_a_check_the_pipeline_has_no_more_steps() -> None:
    class Plan:
        checks = ()

    with beam.Pipeline() as pipeline:
        parts = pipeline | beam.Create([1])
        plan: Any = Plan()
        assert fold_parts(parts, plan) is parts


@pytest.mark.slow
def test_the_digest_is_that_of_parts_that_were_never_folded_on_their_way(sorted_by_class: Workbench) -> None:
    plain = sorted_by_class.vet().verdict  # the plain engine has no such step
    assert plain.checks[0].evidence[0]["statistic"]["covariance_columns"] < 40

    on_beam = sorted_by_class.vet(replace=True, on_beam=True).verdict

    assert on_beam.digest == plain.digest
