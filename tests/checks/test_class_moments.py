"""Moments of many classes: within the budget, of one width, and the same bits whatever each worker saw."""

import itertools
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks import class_moments
from millcert.checks.base import Check, fit_check
from millcert.checks.class_moments import final_moments, fold_for, no_rows, unfolded, within_budget
from millcert.checks.conformance import same_bits
from millcert.checks.detectors.activation_clustering import ActivationClustering
from millcert.checks.detectors.robust_spectral import RobustSpectral
from millcert.checks.detectors.spectral_signatures import SpectralSignatures
from millcert.checks.moments import Moments
from millcert.errors import InvalidSampleError


@pytest.mark.parametrize(
    ("width", "classes", "expected"),
    [(128, 10, 128), (128, 2048, 128), (128, 2049, 64), (512, 10, 512), (512, 128, 512), (512, 1000, 128)],
)
def test_all_columns_are_kept_while_the_tables_fit_in_256_megabytes(width: int, classes: int, expected: int) -> None:
    """Issue 6 and design 3: full covariance while classes x d**2 x 8 bytes is at most 256 MB, else fewer columns."""
    fold = fold_for(width, classes)

    assert fold.columns == expected
    assert 8 * classes * fold.columns**2 <= 256 << 20


def test_a_table_is_a_record_below_4_megabytes() -> None:
    assert fold_for(4096, 1).columns <= 1000
    assert no_rows(4096).add_rows(np.ones((2000, 4096), dtype=np.float32)).nbytes < 4 << 20


def test_workers_that_saw_few_classes_give_the_bits_of_one_that_saw_all() -> None:
    """A worker folds when it must; the final sums depend on the samples alone."""
    random = np.random.default_rng(0)
    rows = {f"{number}": random.standard_normal((30, 40)).astype(np.float32) for number in range(12)}
    with mock.patch.object(class_moments, "BUDGET_BYTES", 8 * 12 * 20**2):
        few = [
            within_budget({label: no_rows(40).add_rows(rows[label][half])})
            for label, half in itertools.product(rows, (slice(0, 11), slice(11, 30)))
        ]
        apart = {label: few[2 * place][label].merge([few[2 * place + 1][label]]) for place, label in enumerate(rows)}
        together: dict[str, Moments] = {}
        for label, values in rows.items():
            together = within_budget({**together, label: no_rows(40).add_rows(values)})
        one, fold = final_moments(dict(reversed(apart.items())))
        other, _ = final_moments(together)

    assert fold.columns == 20
    assert all(parts[label].dimension == 40 for parts in few for label in parts)
    assert same_bits(one, other)
    assert sum(part.settled().nbytes for part in one.values()) <= 8 * 12 * 20**2
    assert unfolded(fold, np.eye(20)).shape == (40, 20)


def test_many_exponents_are_many_tables() -> None:
    """Rows of hostile scales make more tables, so fewer columns, never more memory."""
    scales = 2.0 ** (4 * np.arange(-30, 30))
    rows = np.random.default_rng(1).standard_normal((60, 40)) * scales[:, None]
    with mock.patch.object(class_moments, "BUDGET_BYTES", 8 * 60 * 20**2):
        found, fold = final_moments({"a": no_rows(40).add_rows(rows)})

    assert 30 < len(found["a"].scales) <= 60
    assert fold.columns == 20
    assert found["a"].nbytes <= 8 * 60 * 20**2


def test_several_widths_are_refused() -> None:
    with pytest.raises(InvalidSampleError):
        within_budget({"a": no_rows(4), "b": no_rows(5)})
    assert within_budget({}) == {}


def batch_of(rows: np.ndarray, label: np.ndarray) -> pa.RecordBatch:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).ravel()), rows.shape[1])
    digests = pa.array([bytes([row % 256, row // 256] * 16) for row in range(len(rows))], pa.binary(32))
    text = pa.array([f"{value:03d}" for value in label])
    return pa.RecordBatch.from_arrays(
        [text, pa.array(["s"] * len(rows)), vectors, digests], ["label", "source", "embedding_self", "sample_digest"]
    )


@pytest.mark.parametrize("check", [RobustSpectral(), SpectralSignatures(epsilon=0.02), ActivationClustering()])
def test_checks_beyond_the_budget_fold_and_say_so(check: Check) -> None:
    random = np.random.default_rng(2)
    label = np.repeat(np.arange(12), 200)
    rows = (1.5 * random.standard_normal((12, 96)) / 96**0.25)[label] + random.standard_normal((2400, 96))
    hidden = np.arange(2000, 2020)
    rows[hidden] += 14 * random.standard_normal(96) / np.sqrt(96)
    whole = batch_of(rows, label)
    order = random.permutation(2400)
    with mock.patch.object(class_moments, "BUDGET_BYTES", 8 * 24 * 48**2):
        model = fit_check(check, [whole])
        shuffled = fit_check(check, [whole.take(pa.array(part)) for part in np.array_split(order, 7)])
        scores = check.score(model, whole)

    assert same_bits(model, shuffled)
    evidence = {item.label: item for item in check.evidence(model)}
    assert evidence["010"].statistic["covariance_columns"] == 48
    full = {item.label: item for item in check.evidence(fit_check(check, [whole]))}
    assert full["010"].statistic["covariance_columns"] == 96
    if check.name == "robust_spectral":
        assert [name for name, item in evidence.items() if item.is_suspicious] == ["010"]
        assert set(np.flatnonzero(scores.flagged)) == set(hidden)


def test_beyond_the_budget_the_published_rule_reads_the_folded_columns() -> None:
    """Version 2 of `spectral_signatures`: its scores are the paper's of folded rows, not of the rows as they came."""
    random = np.random.default_rng(3)
    label = np.repeat(np.arange(4), 150)
    rows = random.standard_normal((600, 40)) * np.linspace(1, 3, 40)
    check = SpectralSignatures(epsilon=0.02)
    with mock.patch.object(class_moments, "BUDGET_BYTES", 8 * 4 * 20**2):
        fold = fold_for(40, 4)
        found = check.score(fit_check(check, [batch_of(rows, label)]), batch_of(rows, label))

    folded = rows.astype(np.float32) @ fold.matrix()
    for value in range(4):
        centred = folded[label == value] - folded[label == value].mean(axis=0)
        expected = (centred @ np.linalg.svd(centred, full_matrices=False)[2][0]) ** 2
        assert found.score[label == value] == pytest.approx(expected, rel=1e-3, abs=1e-2)
    assert check.version == "2"
