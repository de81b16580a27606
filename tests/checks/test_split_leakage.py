"""split_leakage: copies between declared splits are counted exactly, and the larger split gives way."""

import random

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.base import fit_check
from millcert.checks.conformance import conformance_cases
from millcert.checks.conformance_data import fixed_size_lists
from millcert.checks.detectors.split_leakage import MAX_SPLITS, SplitLeakage
from millcert.checks.key_splits import KeyMasks, bits_by_part, in_several
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError, PolicyError

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "r", "st", "lk")]


def texts(count: int, seed: int) -> list[str]:
    source = random.Random(seed)
    return [" ".join(source.choices(WORDS, k=25)) for _ in range(count)]


def batch_of(rows: list[str], split: list[str]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(rows, pa.string()), pa.array(split, pa.string())], ["text", "split"])


def test_exact_and_near_copies_in_another_split_are_flagged_in_the_larger() -> None:
    rows, split = texts(600, 1), ["train"] * 450 + ["test"] * 150
    rows[:10] = rows[450:460]
    rows[10:20] = [text.replace(text.split()[3], "other", 1) for text in rows[460:470]]
    rows[30] = rows[31]
    check, batch = SplitLeakage(), batch_of(rows, split)

    model = fit_check(check, [batch.slice(0, 200), batch.slice(200)])
    scores = check.score(model, batch)
    found = [item for item in check.evidence(model) if item.is_suspicious]

    flagged = np.flatnonzero(scores.flagged).tolist()
    assert flagged[:10] == list(range(10))
    assert max(flagged) < 20
    assert len(flagged) >= 18
    assert [(item.group, item.estimated_count, item.samples) for item in found] == [("train/test", len(flagged), 450)]
    assert found[0].statistic == {"leaked": len(flagged), "samples_of_smaller": 150, "complete": 1}
    assert set(scores.group[:10].to_pylist()) == {"train/test"}
    assert scores.score[:10].tolist() == [1.0] * 10


@pytest.mark.parametrize("seed", range(3))
def test_splits_without_copies_have_no_finding(seed: int) -> None:
    check, batch = SplitLeakage(), batch_of(texts(500, seed), ["train", "train", "dev", "test"] * 125)

    assert not any(item.is_suspicious for item in check.evidence(fit_check(check, [batch])))


def test_of_three_splits_the_smallest_stays_whole() -> None:
    rows, split = texts(60, 2), ["train"] * 40 + ["dev"] * 12 + ["test"] * 8
    rows[0] = rows[40] = rows[52]
    check, batch = SplitLeakage(), batch_of(rows, split)

    model = fit_check(check, [batch])

    assert np.flatnonzero(check.score(model, batch).flagged).tolist() == [0, 40]
    assert [item.group for item in check.evidence(model) if item.is_suspicious] == ["dev/test", "train/test"]


def test_a_sample_of_a_split_that_was_not_fitted_is_judged_too() -> None:
    rows = texts(30, 3)
    rows[0] = rows[29]
    check = SplitLeakage()
    model = fit_check(check, [batch_of(rows, ["train"] * 20 + ["test"] * 10)])

    assert check.score(model, batch_of(rows[:2], ["new", "new"])).flagged.tolist() == [True, False]


def test_rows_of_values_are_compared_exactly_and_the_rules_kept() -> None:
    check = SplitLeakage(view="features")
    rows = np.random.default_rng(0).integers(0, 1000, (200, 3)).astype(float)
    rows[0] = rows[150]
    split = pa.array(["train"] * 150 + ["test"] * 50)
    batch = pa.RecordBatch.from_arrays([fixed_size_lists(rows), split], ["features", "split"])

    model = fit_check(check, [batch])

    assert np.flatnonzero(check.score(model, batch).flagged).tolist() == [0]
    for case in conformance_cases(SplitLeakage(view="sample_digest")):
        case.run()


def test_a_column_that_is_no_split_is_refused_and_so_is_a_wrong_configuration() -> None:
    rows = texts(MAX_SPLITS + 1, 4)
    check = SplitLeakage()

    with pytest.raises(InvalidSampleError, match="33 values"):
        fit_check(check, [batch_of(rows, [str(number) for number in range(len(rows))])])
    with pytest.raises(NotEnoughSamplesError):
        fit_check(check, [])
    with pytest.raises(InternalError):
        check.score(check.fit(check.add({}, batch_of(rows[:1], ["a"]), None), None), batch_of(rows[:1], ["a"]))
    for config in ({"view": "embedding_self"}, {"similarity": 0.4}):
        with pytest.raises(PolicyError):
            SplitLeakage(**config)


def test_many_keys_are_held_as_packed_bits_and_merge_with_few() -> None:
    keys = np.arange(3_000_000, dtype=np.uint64)
    many, few = bits_by_part(keys), bits_by_part(keys[:50] + np.uint64(10**9))
    number = next(iter(few))

    merged = few[number].merge([many[number]])

    assert len(merged.packed)
    assert not len(few[number].packed)
    assert merged.has(few[number].places).all()
    assert many[number].merge([few[number]]).packed.tobytes() == merged.packed.tobytes()
    assert in_several(keys[:1000], {0: many, 1: bits_by_part(keys[:1000])}).all()
    assert in_several(keys[1000:2000], {0: many, 1: bits_by_part(keys[:1000])}).sum() <= 5


def test_where_too_many_keys_are_shared_a_sample_is_kept_and_said_so() -> None:
    first = KeyMasks.of(np.arange(0, 100_000), np.full(100_000, 1))
    second = KeyMasks.of(np.arange(0, 200_000, 2), np.full(100_000, 2))

    merged = first.merge([second])

    assert merged.is_full
    assert len(merged.ids) == 2**16
    assert merged.masks[merged.ids % 2 == 0].tolist() == [3] * 2**15
