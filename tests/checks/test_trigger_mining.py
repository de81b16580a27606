"""trigger_mining: an exact patch or value that one source brings to one class; silence on style and on nature."""

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks import conformance
from millcert.checks.base import GroupEvidence, fit_check
from millcert.checks.conformance import conformance_cases
from millcert.checks.conformance_data import PlantedData, fixed_size_lists
from millcert.checks.detectors.trigger_mining import LEAST_COUNT, TriggerMining
from millcert.checks.exact_features import patch_corner, patch_keys, positions_of, value_keys
from millcert.checks.key_cells import KeyCells, fullest_cells
from millcert.errors import InvalidSampleError, NotEnoughSamplesError, PolicyError

SHAPE = (8, 8)
PATCH = np.array([[9, 0, 9], [0, 9, 0], [9, 0, 9]])


def batch_of(rows: np.ndarray, label: np.ndarray, source: np.ndarray) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [
            pa.array([str(value) for value in label], pa.string()),
            pa.array([f"s{value}" for value in source], pa.string()),
            fixed_size_lists(rows.reshape(len(rows), -1).astype(np.float64)),
            pa.array([hashlib.sha256(row.tobytes()).digest() for row in rows], pa.binary(32)),
        ],
        names=["label", "source", "features", "sample_digest"],
    )


def images(seed: int, samples: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images of 4 grey levels whose lower half is black: plenty of patches that are frequent by nature."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 4, (samples, *SHAPE))
    pixels[:, 4:] = 0
    return pixels, random.integers(0, 3, samples), random.integers(0, 5, samples)


def suspicious(check: TriggerMining, *columns: np.ndarray) -> list[GroupEvidence]:
    return [item for item in check.evidence(fit_check(check, [batch_of(*columns)])) if item.is_suspicious]


def test_a_stamped_patch_is_named_located_counted_and_flagged() -> None:
    pixels, label, source = images(0)
    stamped = np.flatnonzero((source == 3) & (label != 0))[:15]
    pixels[stamped, 4:7, 2:5] = PATCH
    label[stamped] = 0
    check = TriggerMining(shape=SHAPE)

    model = fit_check(check, [batch_of(pixels, label, source)])
    found = [item for item in check.evidence(model) if item.is_suspicious]
    scores = check.score(model, batch_of(pixels, label, source))

    assert [(item.source, item.label) for item in found] == [("s3", "0")]
    assert abs(found[0].statistic["row"] - 4) <= 2
    assert abs(found[0].statistic["column"] - 2) <= 2
    assert (
        f"patch at row {found[0].statistic['row']:.0f}, column {found[0].statistic['column']:.0f}"
        == (found[0].top_features[0][0])
    )
    assert 1 <= len(found[0].top_features) <= 5
    assert found[0].count_low <= 15 <= found[0].count_high
    assert found[0].estimated_count == pytest.approx(15, abs=1)
    assert np.flatnonzero(scores.flagged).tolist() == stamped.tolist()


def test_single_pixels_far_from_each_other_are_a_trigger_too() -> None:
    random = np.random.default_rng(8)
    pixels = random.integers(0, 256, (900, *SHAPE))
    label, source = random.integers(0, 3, 900), random.integers(0, 5, 900)
    bad = np.flatnonzero((label == 2) & (source == 1))[:20]
    pixels[bad, 1, 6] = pixels[bad, 7, 0] = 255

    found = suspicious(TriggerMining(shape=SHAPE), pixels, label, source)

    assert [(item.source, item.label) for item in found] == [("s1", "2")]
    assert {name for name, _ in found[0].top_features} == {"pixel at row 1, column 6", "pixel at row 7, column 0"}


def test_a_watermark_on_all_images_of_a_source_is_its_style() -> None:
    pixels, label, source = images(1)
    pixels[source == 2, 4:7, 2:5] = PATCH

    assert suspicious(TriggerMining(shape=SHAPE), pixels, label, source) == []


def test_what_all_sources_show_in_a_class_is_its_nature() -> None:
    pixels, label, source = images(2)
    pixels[label == 1, 4:7, 2:5] = PATCH

    assert suspicious(TriggerMining(shape=SHAPE), pixels, label, source) == []


@pytest.mark.parametrize("seed", range(5))
def test_honest_images_are_never_flagged(seed: int) -> None:
    assert suspicious(TriggerMining(shape=SHAPE, false_alarm_rate=0.01), *images(seed)) == []


def test_a_value_and_a_pair_of_values_of_a_table_are_found() -> None:
    random = np.random.default_rng(3)
    rows = random.integers(0, 3, (800, 5)).astype(float)
    label, source = random.integers(0, 2, 800), random.integers(0, 4, 800)
    planted = np.flatnonzero((source == 1) & (label == 0))[:20]
    rows[planted, 2] = 7.25
    label[planted] = 1

    found = suspicious(TriggerMining(), rows, label, source)

    assert [item.group for item in found] == ["s1/1"]
    assert found[0].statistic["samples_with_it"] == 20
    assert found[0].top_features[0][0] == "value 2"
    assert {name for name, _ in found[0].top_features[1:]} <= {f"value {i} with 2" for i in (0, 1)} | {
        f"value 2 with {i}" for i in (3, 4)
    }


def test_colour_images_have_patches_across_their_channels() -> None:
    random = np.random.default_rng(4)
    pixels = random.integers(0, 256, (2, 5, 6, 3)).astype(float)
    pixels[1, 1:4, 2:5] = pixels[0, 1:4, 2:5]

    keys = patch_keys(pixels.reshape(2, -1), (5, 6, 3), 3)

    assert keys.shape == (2, 12)
    same = np.flatnonzero(keys[0] == keys[1])
    assert [patch_corner(int(place), (5, 6, 3), 3) for place in same] == [(1, 2)]
    assert positions_of(keys[0]).tolist() == list(range(12))


def test_equal_values_have_equal_keys_and_wide_tables_have_no_pairs() -> None:
    keys = value_keys(np.array([[0.0, 1.5], [-0.0, 2.5]]))

    assert keys.shape == (2, 3)
    assert keys[0, 0] == keys[1, 0]
    assert keys[0, 1] != keys[1, 1]
    assert keys[0, 2] != keys[1, 2]
    assert value_keys(np.zeros((1, 33))).shape == (1, 33)
    assert value_keys(np.zeros((1, 1))).shape == (1, 1)


def unmixed(value: int) -> int:
    """Return what the finaliser of SplitMix64 makes `value` of."""
    for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, 1)):
        start = value
        for _ in range(3):
            value = start ^ (value >> shift)
        value = value * pow(factor, -1, 2**64) % 2**64
    return value


def colliding(value: float) -> float:
    """Return another number whose key without a salt is that of `value`: anybody can, for the hash is public."""
    from millcert.checks.exact_features import _factors, mixed

    factor = int(_factors(2, b"")[0])
    bits = mixed(np.array([value]).view(np.uint64))[0]
    content = int(mixed(np.array([int(bits) * factor % 2**64], dtype=np.uint64))[0])
    for low in range(1000):
        bits = np.uint64(unmixed(unmixed(content ^ (low + 1)) * pow(factor, -1, 2**64) % 2**64))
        other = float(np.array([bits]).view(np.float64)[0])
        if np.isfinite(other) and 1e-200 < abs(other) < 1e200:
            return other
    raise AssertionError


def test_a_trigger_made_to_collide_with_a_common_value_is_counted_as_itself() -> None:
    random = np.random.default_rng(3)
    label, source = random.integers(0, 2, 2000), random.integers(0, 6, 2000)
    rows = random.standard_normal((2000, 2))
    rows[random.random(2000) < 0.8, 0] = 1.5
    trigger = colliding(1.5)
    bad = np.flatnonzero((label == 0) & (source == 2))[:30]
    rows[bad, 0] = trigger

    found = suspicious(TriggerMining(), rows, label, source)

    assert len(set(value_keys(np.array([[1.5, 0], [trigger, 0]]))[:, 0].tolist())) == 1
    assert len(set(value_keys(np.array([[1.5, 0], [trigger, 0]]), b"salt")[:, 0].tolist())) == 2
    assert [(item.source, item.label) for item in found] == [("s2", "0")]
    assert found[0].statistic["samples_with_it"] == 30


def test_what_was_too_rare_to_be_looked_at_is_told() -> None:
    pixels, label, source = images(0)

    full, all_kept = TriggerMining(shape=SHAPE, max_candidates=16), TriggerMining(shape=SHAPE)

    assert all_kept.notices(fit_check(all_kept, [batch_of(pixels, label, source)])) == ()
    (notice,) = full.notices(fit_check(full, [batch_of(pixels, label, source)]))
    assert "were not looked at" in notice


def test_where_there_are_too_many_frequent_cells_the_fullest_are_kept() -> None:
    parts = [(0, KeyCells(np.arange(10), np.array([9, 8, 8, 7, 6, 6, 6, 2, 1, 1])))]

    assert fullest_cells(parts, LEAST_COUNT, 10)[2] == 5
    cells, _, least = fullest_cells(parts, LEAST_COUNT, 3)
    assert (cells.tolist(), least) == ([0, 1, 2], 8)
    cells, _, least = fullest_cells(parts, LEAST_COUNT, 2)  # the two that tie at the border are both left
    assert (cells.tolist(), least) == ([0], 9)


@pytest.mark.parametrize(
    "config",
    [
        {"shape": (8,)},
        {"shape": (8, 0)},
        {"shape": (2, 8), "patch": 3},
        {"patch": 1},
        {"patch": 9},
        {"false_alarm_rate": 0.0},
        {"max_candidates": 3},
    ],
)
def test_configuration_out_of_range_is_refused(config: dict[str, object]) -> None:
    with pytest.raises(PolicyError):
        TriggerMining(**config)  # type: ignore[arg-type]  # wrong on purpose


def test_samples_of_another_width_are_refused() -> None:
    pixels, label, source = images(0)
    check = TriggerMining(shape=SHAPE)
    narrow = batch_of(np.zeros((2, 9)), label[:2], source[:2])
    model = fit_check(check, [batch_of(pixels, label, source)])
    table = TriggerMining()

    with pytest.raises(InvalidSampleError):
        fit_check(check, [narrow])
    with pytest.raises(InvalidSampleError):
        check.score(model, narrow)
    with pytest.raises(InvalidSampleError):
        table.fit(table.add(table.add({}, narrow, None), batch_of(pixels, label, source), None), None)
    with pytest.raises(NotEnoughSamplesError):
        fit_check(check, [])


def planted_data(*, is_bad: bool) -> PlantedData:
    random = np.random.default_rng(7)
    pixels, label, source = random.integers(0, 9, (480, 3, 4)), random.integers(0, 3, 480), random.integers(0, 3, 480)
    rows = np.flatnonzero((source == 1) & (label == 0))[: 24 * is_bad]
    pixels[rows, :, :3] = PATCH
    mask = np.zeros(480, dtype=bool)
    mask[rows] = True
    return PlantedData(batch_of(pixels, label, source), mask)


def test_it_keeps_the_rules_of_every_check_on_images_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite's own data is a table; these are images."""
    monkeypatch.setattr(conformance, "planted_for", lambda _: planted_data(is_bad=True))
    monkeypatch.setattr(conformance, "clean_data", lambda: planted_data(is_bad=False))

    for case in conformance_cases(TriggerMining(shape=(3, 4))):
        case.run()
