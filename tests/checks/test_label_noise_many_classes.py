"""Label noise with thousands of classes: nothing of size K x K is held, and the answer is cleanlab's."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.base import fit_check
from millcert.checks.detectors.label_noise import LabelNoise


def batches_of(label: np.ndarray, probs: np.ndarray, rows: int) -> list[pa.RecordBatch]:
    digest = np.zeros((len(label), 32), dtype=np.uint8)
    digest[:, :8] = np.arange(len(label), dtype=">u8").view(np.uint8).reshape(-1, 8)
    digests = pa.Array.from_buffers(pa.binary(32), len(label), [None, pa.py_buffer(digest.tobytes())])
    values = pa.FixedSizeListArray.from_arrays(pa.array(probs.ravel()), probs.shape[1])
    names = ["label", "pred_probs", "sample_digest"]
    whole = pa.RecordBatch.from_arrays([pa.array([str(item) for item in label]), values, digests], names=names)
    return [whole.slice(start, rows) for start in range(0, len(label), rows)]


def noisy(width: int, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    true = rng.integers(0, width, number)
    probs = rng.random((number, width)) ** 8
    probs /= probs.sum(axis=1, keepdims=True)
    probs[np.arange(number), true] += rng.random(number) * 3
    probs /= probs.sum(axis=1, keepdims=True)
    label = np.where(rng.random(number) < 0.1, rng.integers(0, width, number), true)
    return label, np.minimum(probs, 1)


@pytest.mark.filterwarnings("ignore:May not flag all label issues in class")  # cleanlab, of classes of one sample
@pytest.mark.parametrize("filter_by", ["prune_by_noise_rate", "prune_by_class", "both", "confident_learning"])
def test_flags_of_a_thousand_classes_equal_cleanlab(filter_by: str) -> None:
    from cleanlab.filter import find_label_issues

    label, probs = noisy(1000, 3000, seed=4)
    check = LabelNoise(view="pred_probs", filter_by=filter_by, classes=tuple(map(str, range(1000))))  # type: ignore[arg-type] # of FILTERS
    batches = batches_of(label, probs, 700)

    model = fit_check(check, batches)

    flagged = np.concatenate([check.score(model, batch).flagged for batch in batches])
    expected = find_label_issues(label, probs, filter_by=filter_by, n_jobs=1)
    np.testing.assert_array_equal(flagged, expected)
    assert flagged.any()


def test_ten_thousand_classes_take_no_table_of_classes_by_classes() -> None:
    """A full K x K table of int64 would be 800 MB; the model and the accumulators stay below a twentieth of that."""
    width = 10_000
    label, probs = noisy(width, 1500, seed=5)
    check = LabelNoise(view="pred_probs", classes=tuple(map(str, range(width))))
    batches = batches_of(label, probs, 100)
    tracemalloc.start()

    model = fit_check(check, batches)
    flagged = np.concatenate([check.score(model, batch).flagged for batch in batches])

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80e6
    assert flagged.any()
