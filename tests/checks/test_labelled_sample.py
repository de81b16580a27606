"""The sample of labelled rows: the same in any order and batches, bounded, unforeseeable without its key."""

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks import labelled_sample
from millcert.checks.base import fit_check
from millcert.checks.detectors.label_noise import LabelNoise
from millcert.checks.labelled_sample import LabelledSample, label_keys, sample_parts, whole_sample
from millcert.errors import InvalidSampleError


def made(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return digests, labels and rows; each tenth row has the digest of the one before it, and another label."""
    rng = np.random.default_rng(seed)
    digests = rng.integers(0, 256, (number, 32), dtype=np.uint8)
    digests[9::10] = digests[8::10][: len(digests[9::10])]
    return digests, rng.integers(0, 4, number), rng.normal(size=(number, 3)).astype(np.float32)


def sampled(order: np.ndarray, size: int, number: int, seed: int = 0) -> dict[str, LabelledSample]:
    digests, label, rows = made(number)
    acc: dict[str, LabelledSample] = {}
    for start in range(0, len(order), size):
        at = order[start : start + size]
        for group, part in sample_parts(acc, digests[at], pa.array(map(str, label[at])), rows[at], seed).items():
            acc[group] = acc[group].merge([part]) if group in acc else part
    return acc


def content(acc: dict[str, LabelledSample]) -> list[tuple[int, int, bytes]]:
    digest, label, rows = whole_sample(acc)
    return sorted(zip(digest.tolist(), label.tolist(), (row.tobytes() for row in rows), strict=True))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled_sample, "MAX_VALUES", 0)
    monkeypatch.setattr(labelled_sample, "LEAST_ROWS", 160)


@pytest.mark.usefixtures("small")
def test_the_sample_is_the_same_in_any_order_and_batches_and_keeps_its_size() -> None:
    number = 4000
    expected = content(sampled(np.arange(number), number, number))

    for size, seed in ((1, 1), (33, 2), (1000, 3)):
        acc = sampled(np.random.default_rng(seed).permutation(number), size, number)

        assert content(acc) == expected
        assert all(sum(len(chunk[0]) for chunk in part.chunks) <= 20 for part in acc.values()), "10 a range, twice"
    assert len(expected) == 160


def test_all_rows_are_in_it_while_they_fit() -> None:
    digest, label, rows = whole_sample(sampled(np.arange(500), 70, 500))

    _, given, made_rows = made(500)
    assert len(digest) == 500
    assert sorted(map(bytes, rows)) == sorted(map(bytes, made_rows))
    assert set(label.tolist()) == set(label_keys(map(str, given)).tolist())


@pytest.mark.usefixtures("small")
def test_another_key_takes_another_sample() -> None:
    one, other = (content(sampled(np.arange(3000), 3000, 3000, seed)) for seed in (0, 1))

    assert len(set(one) & set(other)) < 60


def test_rows_of_other_widths_do_not_merge() -> None:
    digests, label, rows = made(20)
    parts = [sample_parts({}, digests, pa.array(map(str, label)), rows[:, :width], 0) for width in (2, 3)]
    group = next(iter(parts[0]))

    with pytest.raises(InvalidSampleError, match="different widths"):
        parts[0][group].merge([parts[1][group]])


@pytest.mark.usefixtures("small")
def test_what_a_sample_refines_finds_about_what_all_rows_do() -> None:
    """A class whose rows are all outside of the sample is judged, too."""
    rng = np.random.default_rng(1)
    true = np.append(rng.integers(0, 3, 3000), np.full(12, 3))
    label = true.copy()
    label[:150] = (label[:150] + 1) % 3
    rows = (rng.normal(size=(3012, 6)) + 4 * np.eye(4, 6)[true]).astype(np.float32)
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array(map(str, label)),
            pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 6),
            pa.array([rng.bytes(32) for _ in label], pa.binary(32)),
        ],
        names=["label", "embedding_external", "sample_digest"],
    )
    check = LabelNoise()

    model = fit_check(check, [batch])
    flagged = check.score(model, batch).flagged

    assert model.label_counts is not None
    assert model.label_counts.tolist() == np.bincount(label).tolist()
    assert flagged[:150].mean() > 0.9
    assert flagged[150:].mean() < 0.05
