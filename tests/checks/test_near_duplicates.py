"""near_duplicates: floods of exact and near copies are found whole; natural repetition is left alone."""

import random

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.base import GroupEvidence, Scores, fit_check
from millcert.checks.conformance import conformance_cases
from millcert.checks.conformance_data import fixed_size_lists
from millcert.checks.detectors.near_duplicates import NearDuplicates
from millcert.errors import InternalError, InvalidSampleError, NotEnoughSamplesError, PolicyError

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "r", "st", "lk")]


def texts(count: int, seed: int, *, repeated: float = 0.0) -> list[str]:
    """Honest texts; a part of them repeats an earlier one, popular ones more often (Simon's copying model)."""
    source = random.Random(seed)
    found: list[str] = []
    for _ in range(count):
        again = found and source.random() < repeated
        found.append(source.choice(found) if again else " ".join(source.choices(WORDS, k=source.randint(8, 30))))
    return found


def near(text: str, changed: int, source: random.Random) -> str:
    words = text.split()
    for place in source.sample(range(len(words)), changed):
        words[place] = source.choice(WORDS)
    return " ".join(words)


def batch_of(rows: list[str], source: list[str], label: list[str] | None = None) -> pa.RecordBatch:
    columns = {"text": pa.array(rows, pa.string()), "source": pa.array(source, pa.string())}
    if label is not None:
        columns["label"] = pa.array(label, pa.string())
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def run(check: NearDuplicates, batch: pa.RecordBatch) -> tuple[Scores, list[GroupEvidence]]:
    model = fit_check(check, [batch])
    return check.score(model, batch), [item for item in check.evidence(model) if item.is_suspicious]


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_a_flood_of_copies_is_found_whole_and_described(changed: int) -> None:
    source = random.Random(changed)
    rows = texts(1500, 1, repeated=0.03)
    origin = " ".join(source.choices(WORDS, k=30))
    bad = source.sample(range(1500), 80)
    for place in bad:
        rows[place] = near(origin, changed, source)
    names = ["b" if row in set(bad) and row % 10 else f"s{row % 5}" for row in range(1500)]
    label = ["1" if row in set(bad) else str(row % 3) for row in range(1500)]

    scores, found = run(NearDuplicates(), batch_of(rows, names, label))

    flagged = set(np.flatnonzero(scores.flagged).tolist())
    assert len(flagged & set(bad)) >= 78
    assert len(flagged - set(bad)) <= 2 * (changed > 0)
    assert len(found) == 1
    assert found[0].samples == len(flagged)
    assert found[0].source == ""
    assert found[0].statistic["label_share"] >= 0.97
    assert found[0].statistic["source_share"] >= 0.8
    assert found[0].statistic["source_p_value"] < 1e-6
    assert found[0].top_features[0][0] == "class 1"
    assert found[0].p_value is not None
    assert found[0].p_value <= 0.05
    assert set(scores.group.filter(pa.array(scores.flagged)).to_pylist()) == {found[0].group}


def test_two_floods_are_two_groups() -> None:
    source = random.Random(9)
    rows = texts(1000, 2)
    origins = [" ".join(source.choices(WORDS, k=30)) for _ in range(2)]
    for number, place in enumerate(source.sample(range(1000), 100)):
        rows[place] = near(origins[number % 2], number // 2 % 2, source)

    _, found = run(NearDuplicates(), batch_of(rows, ["s"] * 1000))

    assert [item.samples for item in found] == [50, 50]


@pytest.mark.parametrize("repeated", [0.0, 0.02, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_natural_repetition_is_no_flood(seed: int, repeated: float) -> None:
    """Rule: a finding needs a null: what the data's own smaller groups let expect is natural."""
    rows = texts(1200, seed, repeated=repeated)
    names = [f"s{value}" for value in np.random.default_rng(seed).integers(0, 5, 1200)]

    assert run(NearDuplicates(), batch_of(rows, names))[1] == []


@pytest.mark.parametrize("view", ["features", "embedding_external", "embedding_self", "sample_digest"])
@pytest.mark.parametrize("seed", range(2))
def test_honest_vectors_are_no_flood_and_copies_are(view: str, seed: int) -> None:
    random_ = np.random.default_rng(seed)
    rows = random_.standard_normal((800, 16)) + 3 * np.eye(16)[random_.integers(0, 4, 800)] + 5
    check = NearDuplicates(view=view)  # type: ignore[arg-type]  # one of its views

    def columns(values: np.ndarray) -> pa.RecordBatch:
        if view == "sample_digest":
            bits = np.ascontiguousarray(values[:, :4]).tobytes()
            vectors: pa.Array = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), 800, [None, pa.py_buffer(bits)])
        else:
            vectors = fixed_size_lists(values.astype(np.float64 if view == "features" else np.float32))
        names = pa.array([f"s{row % 4}" for row in range(800)])
        return pa.RecordBatch.from_arrays([vectors, names], [view, "source"])

    copied = rows.copy()
    bad = random_.choice(800, 60, replace=False)
    copied[bad] = rows[bad[0]]
    if view.startswith("embedding"):
        copied[bad] += 0.02 * random_.standard_normal((60, 16))

    assert run(check, columns(rows))[1] == []
    scores, found = run(check, columns(copied))
    assert sorted(np.flatnonzero(scores.flagged).tolist()) == sorted(bad.tolist())
    assert [item.samples for item in found] == [60]


@pytest.mark.parametrize("width", [64, 320])
def test_what_varies_most_makes_no_copies_of_honest_vectors(width: int) -> None:
    """Pictures differ most by their brightness: in such a view the dark ones point one way, and are no copies."""
    random_ = np.random.default_rng(width)
    spread = 40.0 / np.arange(1, width + 1) ** 1.5
    rows = random_.standard_normal((3000, width)) * spread + 5
    source = pa.array([f"s{row % 4}" for row in range(3000)])
    bad = random_.choice(3000, 60, replace=False)
    copied = rows.copy()
    copied[bad] = rows[bad[0]] + 0.02 * spread * random_.standard_normal((60, width))
    check = NearDuplicates(view="embedding_external")

    def batch(values: np.ndarray) -> pa.RecordBatch:
        columns = [fixed_size_lists(values.astype(np.float32)), source]
        return pa.RecordBatch.from_arrays(columns, ["embedding_external", "source"])

    assert run(check, batch(rows))[1] == []
    scores, found = run(check, batch(copied))
    assert sorted(np.flatnonzero(scores.flagged).tolist()) == sorted(bad.tolist())
    assert [item.samples for item in found] == [60]


@pytest.mark.parametrize("rows", [np.zeros((40, 3)), np.ones((40, 300)), np.eye(40, 90)])
def test_vectors_that_hardly_vary_or_are_few_have_keys(rows: np.ndarray) -> None:
    columns = [fixed_size_lists(rows.astype(np.float32)), pa.array(["s"] * len(rows))]

    scores, _ = run(
        NearDuplicates(view="embedding_self"), pa.RecordBatch.from_arrays(columns, ["embedding_self", "source"])
    )

    assert np.isfinite(scores.score).all()


def test_in_data_that_repeats_itself_a_lot_the_source_tells() -> None:
    """A group no larger than natural ones may get is a flood only where one source brings it."""
    natural = {1: 1000, 2: 100, 3: 40, 4: 20, 6: 8, 8: 5, 12: 2, 16: 1}
    counts = [size for size, groups in natural.items() for _ in range(groups)]
    rows = [text for text, count in zip(texts(len(counts), 5), counts, strict=True) for _ in range(count)]
    bad = ["a wholly new text that one source repeats again and again until it is learnt"] * 60
    spread = [f"s{value}" for value in np.random.default_rng(1).integers(0, 10, len(rows) + 60)]
    by_one = [*spread[: len(rows)], *["s3"] * 60]

    _, found = run(NearDuplicates(), batch_of([*rows, *bad], by_one))
    _, none = run(NearDuplicates(), batch_of([*rows, *bad], spread))

    assert [(item.source, item.samples) for item in found] == [("s3", 60)]
    assert none == []


@pytest.mark.parametrize("view", ["features", "embedding_external", "sample_digest"])
def test_it_keeps_the_rules_of_every_check_in_its_other_views(view: str) -> None:
    for case in conformance_cases(NearDuplicates(view=view)):  # type: ignore[arg-type]  # one of its views
        case.run()


@pytest.mark.parametrize(
    "config",
    [{"view": "label"}, {"least_copies": 2}, {"false_alarm_rate": 0.0}, {"max_candidates": 3}],
)
def test_configuration_out_of_range_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(PolicyError):
        NearDuplicates(**config)  # type: ignore[arg-type]  # wrong on purpose


def test_what_is_out_of_order_or_of_another_width_is_refused() -> None:
    check = NearDuplicates(view="embedding_external")
    batch = pa.RecordBatch.from_arrays(
        [fixed_size_lists(np.ones((30, 4), np.float32)), pa.array(["s"] * 30)], ["embedding_external", "source"]
    )
    model = check.fit(check.add({}, batch, None), None)
    narrow = batch.set_column(0, "embedding_external", fixed_size_lists(np.ones((30, 3), np.float32)))

    with pytest.raises(InvalidSampleError):
        check.add({}, narrow, model)
    with pytest.raises(InternalError):
        check.score(model, batch)
    with pytest.raises(NotEnoughSamplesError):
        fit_check(NearDuplicates(), [])


def test_fewer_candidates_only_raise_the_least_size_that_is_looked_at() -> None:
    rows = [*texts(400, 3), *(text for text in texts(40, 4) for _ in range(12)), *(["the same old thing"] * 90)]
    batch = batch_of(rows, ["s"] * len(rows))
    check = NearDuplicates(max_candidates=16)

    model = fit_check(check, [batch])

    assert model.searched_from > 12
    assert check.score(model, batch).score.max() >= 90
