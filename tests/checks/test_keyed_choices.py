"""Who does not know the seed cannot choose samples that share a fold, or that are sure to be shown as neighbours."""

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.base import fit_check
from millcert.checks.confident_neighbours import PREFIX, confident_parts
from millcert.checks.detectors.knn_disagreement import KnnDisagreement
from millcert.checks.detectors.label_noise import LabelNoise
from millcert.checks.detectors.view_contradiction import ViewContradiction
from millcert.checks.digest_sample import choosing_keys, digest_keys
from millcert.checks.fold_sums import fold_of
from millcert.errors import PolicyError

SECRET = 0x9E3779B97F4A7C15


def digests_of(keys: np.ndarray) -> np.ndarray:
    """Return digests whose first 8 bytes are the keys, as somebody makes who tries many contents, uint8 (n, 32)."""
    rest = np.random.default_rng(int(keys[0]) % 1000).integers(0, 256, (len(keys), 24), dtype=np.uint8)
    return np.concatenate([keys.astype(">u8").view(np.uint8).reshape(-1, 8), rest], axis=1)


def chosen_keys(number: int, seed: int | None) -> np.ndarray:
    """Return first bytes of digests that are all in fold 0 of 5 for a seed."""
    keys = np.random.default_rng(3).integers(0, 2**63, 12 * number, dtype=np.uint64)
    return keys[fold_of(keys, 5, seed) == 0][:number]


def test_samples_that_were_chosen_for_one_fold_are_in_all_folds_under_a_seed_that_nobody_knew() -> None:
    for guess in (None, 0, SECRET ^ 1):
        keys = chosen_keys(2000, guess)
        assert len(keys) == 2000

        found = np.bincount(fold_of(keys, 5, SECRET), minlength=5)

        assert np.abs(found - 400).max() < 5 * np.sqrt(2000 * 0.16), f"chosen by {guess}"  # 5 standard errors


def test_a_class_cannot_be_hidden_from_the_models_by_choosing_its_samples_for_one_fold() -> None:
    """A class in one fold alone is not judged under `rare_classes: skip`, so nothing in it would be flagged."""
    rng = np.random.default_rng(6)
    rows = np.concatenate([rng.normal(size=(400, 6)) + 5 * np.eye(2, 6)[np.arange(400) % 2], rng.normal(size=(60, 6))])
    label = [f"class {at % 2}" for at in range(400)] + ["theirs"] * 60
    keys = np.concatenate([rng.integers(0, 2**63, 400, dtype=np.uint64), chosen_keys(60, 0)])
    digests = pa.Array.from_buffers(pa.binary(32), 460, [None, pa.py_buffer(digests_of(keys).tobytes())])
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).ravel()), 6)
    batch = pa.RecordBatch.from_arrays(
        [pa.array(label), embedding, digests], names=["label", "embedding_external", "sample_digest"]
    )

    judged = {}
    for seed in (0, SECRET):
        check = LabelNoise(rare_classes="skip", seed=seed)
        evidence = {item.label: item for item in check.evidence(fit_check(check, [batch]))}
        judged[seed] = evidence["theirs"].statistic["judged"]

    assert judged == {0: 0.0, SECRET: 1.0}


def test_samples_that_were_chosen_to_be_shown_are_shown_as_often_as_any_under_another_seed() -> None:
    rng = np.random.default_rng(8)
    digests = rng.integers(0, 256, (6400, 32), dtype=np.uint8)
    rows, label = rng.normal(size=(6400, 4)).astype(np.float32), np.zeros(6400, dtype=np.int64)

    known, kept = (
        {digest.tobytes() for digest in confident_parts(digests, label, rows, 2, seed)[f"{PREFIX}0"].digests}
        for seed in (0, SECRET)
    )

    assert len(known) == len(kept) == 64
    assert len(known & kept) <= 6  # 0.64 to be expected


def test_who_made_samples_to_be_the_references_finds_them_chosen_no_more_often_under_a_seed() -> None:
    """`knn_disagreement` compares every sample with those of the least keys: who owned them would own the votes."""
    digests = np.random.default_rng(9).integers(0, 256, (6400, 32), dtype=np.uint8)
    made = np.argsort(digest_keys(digests))[:64]

    without, with_key = (np.argsort(choosing_keys(digests, seed))[:64] for seed in (0, SECRET))

    assert set(without) == set(made)
    assert len(set(with_key) & set(made)) <= 6  # 0.64 to be expected


@pytest.mark.parametrize("check", [KnnDisagreement, ViewContradiction])
@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_that_is_no_key_is_refused(check: type[KnnDisagreement | ViewContradiction], seed: int) -> None:
    with pytest.raises(PolicyError, match="seed must be in"):
        check(seed=seed)
