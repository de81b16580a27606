"""activation_clustering: finds a class in two parts, and says nothing of one lump whatever its tails."""

from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.base import GroupEvidence, Scores, fit_check
from millcert.checks.conformance_data import fixed_size_lists
from millcert.checks.detectors.activation_clustering import ActivationClustering
from millcert.checks.two_means import silhouette, split_in_two, split_p_value
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError, PolicyError


def with_digests(batch: pa.RecordBatch, seed: int = 0) -> pa.RecordBatch:
    bits = np.random.default_rng(seed).bytes(32 * batch.num_rows)
    marks = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), batch.num_rows, [None, pa.py_buffer(bits)])
    return pa.RecordBatch.from_arrays([*batch.columns, marks], [*batch.schema.names, "sample_digest"])


def run(batch: pa.RecordBatch) -> tuple[Scores, list[GroupEvidence]]:
    check = ActivationClustering()
    model = fit_check(check, [batch])
    return check.score(model, batch), [item for item in check.evidence(model) if item.is_suspicious]


@pytest.mark.parametrize("share", [0.15, 0.3])
def test_a_class_of_which_a_good_part_is_poison_is_split_and_counted(planted: ModuleType, share: float) -> None:
    data = planted.backdoor(poisoned=share, shift=12.0, classes=4, samples=300, width=16, seed=1)

    scores, found = run(with_digests(data.batch()))

    assert [item.label for item in found] == ["0"]
    assert found[0].count_low <= data.is_bad.sum() <= found[0].count_high
    assert scores.flagged[data.is_bad].mean() > 0.99
    assert scores.flagged[~data.is_bad].mean() < 0.001


@pytest.mark.parametrize("shape", ["gauss", "student", "elliptical", "relu", "lognormal"])
@pytest.mark.parametrize("seed", range(2))
def test_a_class_of_one_lump_is_never_named(planted: ModuleType, shape: str, seed: int) -> None:
    """Rule: the threshold comes from a null: one lump with the class's own spread and tails."""
    data = planted.clean(shape=shape, classes=4, samples=200, width=16, seed=seed)

    assert run(with_digests(data.batch()))[1] == []


def test_two_means_find_the_smaller_lump_and_its_null_knows_one_lump_from_two() -> None:
    random = np.random.default_rng(2)
    one = random.standard_normal((400, 4))
    two = one + np.where(np.arange(400)[:, None] < 100, 8.0, 0.0) * np.eye(4)[0]

    split, lump = split_in_two(two), split_in_two(one)

    assert split.share == pytest.approx(0.25)
    assert split.centres[0, 0] > 6
    assert silhouette(two, split.centres) > 0.5 > silhouette(one, lump.centres)
    assert split_p_value(two, split.left, 0) < 1e-6
    assert split_p_value(one, lump.left, 0) > 0.001
    assert split_in_two(np.zeros((5, 2))).left == 1.0
    assert silhouette(np.zeros((5, 2)), np.zeros((2, 2))) == 0.0
    assert split_p_value(np.zeros((60, 2)), 1.0, 0) == 1.0


def test_a_class_with_few_samples_is_not_judged(planted: ModuleType) -> None:
    data = planted.clean(classes=2, samples=30, width=8)
    check = ActivationClustering()
    batch = with_digests(data.batch())
    model = fit_check(check, [batch])

    assert [item.p_value for item in check.evidence(model)] == [None, None]
    assert not check.score(model, batch).score.any()


@pytest.mark.parametrize(
    "config",
    [{"components": 1}, {"max_share": 0.6}, {"least_silhouette": 2.0}, {"false_alarm_rate": 0.5}],
)
def test_configuration_out_of_range_is_refused(config: dict[str, float]) -> None:
    with pytest.raises(PolicyError):
        ActivationClustering(**config)  # type: ignore[arg-type]  # wrong on purpose


def test_what_is_out_of_order_or_of_another_width_is_refused(planted: ModuleType) -> None:
    check = ActivationClustering()
    batch = with_digests(planted.clean(classes=2, samples=60, width=8).batch())
    narrow = batch.set_column(2, "embedding_self", fixed_size_lists(np.ones((batch.num_rows, 3), np.float32)))
    other = narrow.set_column(0, "label", pa.array(["other"] * batch.num_rows))
    model = check.fit(check.add({}, batch, None), None)

    with pytest.raises(InternalError):
        check.score(model, batch)
    with pytest.raises(InvalidSampleError):
        check.add({}, narrow, model)
    with pytest.raises(InvalidSampleError):
        check.fit(check.merge([check.add({}, batch, None), check.add({}, other, None)]), None)
    with pytest.raises(NotEnoughSamplesError):
        fit_check(check, [])
