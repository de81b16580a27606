"""Classes that nobody named are found in the read that gives their thresholds, the same in any order and split."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millcert.checks.base import fit_check
from millcert.checks.class_columns import in_order
from millcert.checks.detectors.label_noise import LabelNoise
from millcert.checks.label_filter import FILTERS
from millcert.checks.label_noise_views import VIEWS
from millcert.checks.label_table import MAX_FOUND, PREFIX, LabelTable
from millcert.errors import InvalidSampleError


def batch_of(labels: list[str], probs: np.ndarray, *, first: int = 0) -> pa.RecordBatch:
    digests = [index.to_bytes(8, "big") + bytes(24) for index in range(first, first + len(labels))]
    return pa.RecordBatch.from_arrays(
        [
            pa.array(labels, pa.string()),
            pa.FixedSizeListArray.from_arrays(pa.array(probs.ravel()), probs.shape[1]),
            pa.array(digests, pa.binary(32)),
        ],
        names=["label", "pred_probs", "sample_digest"],
    )


def planted(width: int, number: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    probs = rng.random((number, width)) ** rng.choice([1, 8, 40])
    return np.minimum(probs / probs.sum(axis=1, keepdims=True), 1.0)


#: Names, column numbers, numbers from 1 or below 0, and texts that are nearly numbers.
NAMES = st.one_of(
    st.integers(0, 12).map(str),
    st.integers(-3, 14).map(str),
    st.sampled_from(["cat", "dog", "", "01", "007", "+1", "-0", "1e3", "ant", "é", "9" * 20]),
)


@given(
    labels=st.lists(NAMES, min_size=1, max_size=40),
    more=st.integers(0, 3),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    seed=st.integers(0, 99),
)
@settings(max_examples=300, deadline=None)
def test_thresholds_of_found_classes_are_those_of_named_ones_to_the_last_bit(
    labels: list[str], more: int, cuts: list[int], seed: int
) -> None:
    """Rules 1 and 2 of label_table, for any labels, in any parts: the column of each label, and exact sums."""
    found, rng = in_order(set(labels)), np.random.default_rng(seed)
    width = len(found) + more
    probs = planted(width, len(labels), seed)
    starts = sorted({0, *(cut for cut in cuts if cut < len(labels))})
    spans = list(zip(starts, [*starts[1:], len(labels)], strict=True))
    whole = LabelNoise(view="pred_probs")
    accs = [whole.empty(), whole.empty()]
    for at, (start, stop) in enumerate(spans):
        batch = batch_of(labels[start:stop], probs[start:stop], first=start)
        accs[at % 2] = whole.add(accs[at % 2], batch, None)
    merged = whole.merge(accs if rng.random() < 0.5 else accs[::-1])
    are_numbers = all(label.isascii() and label.isdigit() and str(int(label)) == label for label in found)
    if more and not (are_numbers and all(int(label) < width for label in found)):
        with pytest.raises(InvalidSampleError, match="columns of pred_probs"):
            whole.fit(merged, None)
        return
    if len(found) < 2:
        return
    classes = found if not more else tuple(map(str, range(width)))
    named = LabelNoise(view="pred_probs", classes=classes)

    model = whole.fit(merged, None)

    expected = named.fit(named.add(named.empty(), batch_of(labels, probs), None), None)
    assert model.classes == classes
    for name in ("label_counts", "thresholds"):
        np.testing.assert_array_equal(getattr(model, name), getattr(expected, name))


@pytest.mark.parametrize("order", ["mixed", "sorted"])
@pytest.mark.parametrize("width", [40, 300])
def test_many_rows_of_many_classes_give_the_flags_of_named_classes(order: str, width: int) -> None:
    rng = np.random.default_rng(width)
    code = rng.integers(0, width, 3000)
    code = np.sort(code) if order == "sorted" else code
    probs = planted(width, 3000, 3)
    probs[np.arange(3000), code] += 0.2 * rng.random(3000)
    probs = np.minimum(probs / probs.sum(axis=1, keepdims=True), 1)
    names = tuple(sorted(f"class {index:04}" for index in range(width)))
    batches = [
        batch_of([names[at] for at in code[start : start + 500]], probs[start : start + 500], first=start)
        for start in range(0, 3000, 500)
    ]
    found, named = LabelNoise(view="pred_probs"), LabelNoise(view="pred_probs", classes=names)

    model, expected = fit_check(found, batches), fit_check(named, batches)

    assert model.classes == names
    for batch in batches:
        np.testing.assert_array_equal(found.score(model, batch).flagged, named.score(expected, batch).flagged)
        np.testing.assert_array_equal(found.score(model, batch).score, named.score(expected, batch).score)


def test_what_is_kept_is_bounded_and_shrinks_to_one_sum_a_class_once_all_are_met() -> None:
    width, check = 60, LabelNoise(view="pred_probs")
    names = [f"class {index:02}" for index in range(width)]
    acc, sizes = check.empty(), []
    for index, name in enumerate(names + names):
        acc = check.add(acc, batch_of([name] * 20, planted(width, 20, index), first=20 * index), None)
        sizes.append(sum(len(part.cell) for part in acc.values() if isinstance(part, LabelTable)))

    assert max(sizes) <= width * (width + 1) / 2
    assert sizes[-1] == width


def test_more_columns_than_are_found_out_need_numbers_or_names() -> None:
    width, check = MAX_FOUND + 1, LabelNoise(view="pred_probs")
    probs = np.full((2, width), 1 / width)

    acc = check.add(check.empty(), batch_of(["0", str(MAX_FOUND)], probs), None)

    assert {len(part.cell) for group, part in acc.items() if group.startswith(PREFIX)} == {2}
    assert check.fit(acc, None).classes == tuple(map(str, range(width)))
    for label in ("cat", str(width), "-1"):
        with pytest.raises(InvalidSampleError, match=f"'{label}' is none's number") as caught:
            check.add(check.empty(), batch_of(["0", label], probs), None)
        assert "classes" in (caught.value.hint or "")


def test_more_labels_than_columns_are_refused_as_soon_as_they_are_seen() -> None:
    check = LabelNoise(view="pred_probs")
    acc = check.add(check.empty(), batch_of(["a", "b"], np.full((2, 2), 0.5)), None)

    with pytest.raises(InvalidSampleError, match="3 labels and 2 columns"):
        check.add(acc, batch_of(["c"], np.full((1, 2), 0.5)), None)


class Counted(list[pa.RecordBatch]):
    """Batches that count how often they are read."""

    reads = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        self.reads += 1
        return super().__iter__()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("filter_by", FILTERS)
@pytest.mark.parametrize("named", [False, True])
def test_no_configuration_takes_more_than_two_reads_of_its_own(view: Any, filter_by: Any, *, named: bool) -> None:
    """The first read is shared by all checks, and so is the one that scores."""
    rng = np.random.default_rng(2)
    label, number = [str(value) for value in rng.integers(0, 3, 90)], 90
    values = {
        "pred_probs": pa.FixedSizeListArray.from_arrays(pa.array(planted(3, number, 1).ravel()), 3),
        "text": pa.array([f"word {value} {at % 7}" for at, value in enumerate(label)]),
        "features": pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=number * 4)), 4),
    }
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=number * 4).astype(np.float32)), 4)
    digests = [rng.bytes(32) for _ in label]
    batch = pa.RecordBatch.from_arrays(
        [pa.array(label), values.get(view, embedding), pa.array(digests, pa.binary(32))],
        names=["label", view, "sample_digest"],
    )
    check = LabelNoise(view=view, filter_by=filter_by, classes=("0", "1", "2") if named else ())
    batches = Counted([batch])

    model = fit_check(check, batches)

    assert batches.reads == check.passes <= 1 + 2
    assert check.score(model, batch).score.shape == (number,)
