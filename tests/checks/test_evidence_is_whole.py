"""Every finding says how sure it is, of how many, where and by what; and what saw nothing covers nothing."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.base import Check, GroupEvidence, fit_check
from millcert.checks.conformance_data import clean_data, fixed_size_lists, planted_for
from millcert.checks.coverage import ATTACK_FAMILIES, families_of, families_seen, not_covered
from millcert.checks.detectors.knn_disagreement import KnnDisagreement
from millcert.checks.registry import get_check, list_checks
from millcert.checks.top_columns import top_columns
from millcert.errors import NotEnoughSamplesError

CONFIG: Mapping[str, dict[str, Any]] = {
    "spectral_signatures": {"epsilon": 0.05},
    "shortcut_mining": {"shape": (2, 6), "patch": 2, "least_side": 2},
}
#: Checks whose findings have no p-value, and why: what the page of each check says.
NO_NULL = {
    "label_noise": "errors are estimated, not tested for: honest data has them, and they never reject",
    "split_leakage": "a copy across splits is a fact",
    "spectral_signatures": "a fixed share is flagged, whatever the data (a baseline)",
}
#: Checks whose findings name no features, and why.
NO_FEATURES = {
    "annotator_quality": "who labelled is all that it looks at",
    "spectral_signatures": "a fixed share is flagged, whatever the data (a baseline)",
}
#: The baseline's estimate is the rate that it was given, of which it knows nothing: an interval from 0.
FROM_NOTHING = {"spectral_signatures"}


def checks() -> list[Check]:
    return [get_check(name, CONFIG.get(name, {})) for name in list_checks()]


def found_by(check: Check) -> list[GroupEvidence]:
    batch = planted_for(check.covers).batch
    if check.name == "knn_disagreement":  # wrong labels that one source brings
        batch = clean_data(samples=1600).batch
        label = np.array(batch.column("label").to_pylist(), dtype=object)
        source = np.array(batch.column("source").to_pylist(), dtype=object)
        label[(source == source[0]) & (label == "1")] = "2"
        batch = batch.set_column(batch.schema.get_field_index("label"), "label", pa.array(label.tolist()))
    if check.name == "view_contradiction":
        batch = contradicting()
    evidence = check.evidence(fit_check(check, [batch]))
    return [group for group in evidence if group.is_suspicious]


def contradicting() -> pa.RecordBatch:
    """Eight classes in two views; 60 samples of class 3 are of class 5, which only the external view says."""
    random = np.random.default_rng(0)
    true = np.arange(2400) % 8
    label = np.where((true == 5) & (np.arange(2400) < 480), 3, true)
    views = [3.5 * np.eye(8)[one] + random.standard_normal((2400, 8)) for one in (label, true)]
    marks = [hashlib.sha256(str(row).encode()).digest() for row in range(2400)]
    columns = [pa.array([str(one) for one in label]), pa.array(marks, pa.binary(32))]
    columns += [fixed_size_lists(view.astype(np.float32)) for view in views]
    names = ["label", "sample_digest", "embedding_self", "embedding_external"]
    return pa.RecordBatch.from_arrays(columns, names=names)


@pytest.mark.parametrize("check", checks(), ids=lambda check: check.name)
def test_every_finding_is_whole(check: Check) -> None:
    found = found_by(check)

    assert found
    for group in found:
        assert all(np.isfinite(value) for value in group.statistic.values())
        assert group.count_low > 0 or check.name in FROM_NOTHING
        assert group.count_low <= group.estimated_count <= group.count_high <= group.samples
        assert group.label or group.source or check.name in {"near_duplicates", "split_leakage", "annotator_quality"}
        if check.name in NO_NULL:
            assert group.p_value is None
        else:
            assert group.p_value is not None
            assert 0 <= group.p_value <= 0.05
        assert bool(group.top_features) == (check.name not in NO_FEATURES)
        assert all(name and np.isfinite(value) for name, value in group.top_features)


def test_a_contradiction_says_what_the_samples_rather_are() -> None:
    (group,) = found_by(get_check("view_contradiction", {}))

    shares = [share for _, share in group.top_features]
    assert all(name.startswith("rather class ") for name, _ in group.top_features)
    assert f"rather class {group.label}" not in dict(group.top_features)
    assert sum(shares) == pytest.approx(1.0)


def test_columns_are_named_by_their_share_of_a_direction() -> None:
    assert top_columns("view", np.array([0.0, -2.0, 1.0])) == (("view column 1", 0.8), ("view column 2", 0.2))
    assert top_columns("view", np.zeros(3)) == ()
    assert len(top_columns("view", np.ones(9))) == 5


#: What each column lets be seen, by the checks that read it and no column that is not there.
SOURCE_FAMILIES = {"trigger_in_one_source", "bad_source"}


def seen_with(roles: set[str], *, sources: int = 4) -> set[str]:
    """Return the families that all checks that these roles allow could see in honest data."""
    batch = clean_data().batch
    names = pa.array([f"s{row % sources}" for row in range(batch.num_rows)])
    batch = batch.set_column(batch.schema.get_field_index("source"), "source", names)
    seen: set[str] = set()
    for check in checks():
        if check.columns <= roles | {"label", "source", "sample_digest"}:
            try:
                model = fit_check(check, [batch])
            except NotEnoughSamplesError:
                continue
            seen |= families_seen(check, check.evidence(model))
    return set(ATTACK_FAMILIES) - set(not_covered([seen]))


@pytest.mark.parametrize(
    ("roles", "there", "absent"),
    [
        ({"embedding_self"}, {"backdoor_dirty_label"}, {"backdoor_adaptive", "bad_source", "label_noise"}),
        ({"embedding_external"}, {"backdoor_adaptive", "bad_source", "label_noise"}, {"backdoor_dirty_label"}),
        ({"features"}, {"trigger_in_one_source"}, {"backdoor_dirty_label", "bad_source", "label_noise"}),
        ({"text"}, {"duplicate_flood"}, {"backdoor_dirty_label", "bad_source", "split_leakage"}),
        ({"text", "split"}, {"duplicate_flood", "split_leakage"}, {"bad_source"}),
        (set(), set(), {"backdoor_dirty_label", "bad_source", "trigger_in_one_source", "label_noise"}),
    ],
)
def test_a_column_that_is_missing_takes_its_families_away(roles: set[str], there: set[str], absent: set[str]) -> None:
    seen = seen_with(roles)

    assert there <= seen
    assert not seen & absent


@pytest.mark.parametrize("sources", [1, 2, 3])
def test_what_compares_sources_sees_nothing_where_there_are_too_few(sources: int) -> None:
    """A trigger needs a second source to be told by; a shift needs two others to scatter."""
    seen = seen_with({"embedding_self", "embedding_external", "features"}, sources=sources)

    assert ("trigger_in_one_source" in seen) == (sources >= 2)
    assert ("bad_source" in seen) == (sources >= 3)
    assert ("backdoor_adaptive" in seen) == (sources >= 3)
    assert "backdoor_dirty_label" in seen


def test_a_baseline_and_neighbours_in_a_view_that_knows_the_wrong_labels_cover_nothing() -> None:
    assert families_of(get_check("spectral_signatures", {"epsilon": 0.05})) == frozenset()
    assert families_of(get_check("activation_clustering", {})) == frozenset()
    assert families_of(KnnDisagreement(view="embedding_self")) == frozenset()
