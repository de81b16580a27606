"""The report's distributions: each column beside the reference, for all rows and each source, harmless to look at."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest

from millcert.checks.profile import Profile, ProfileSpec, add_batch, empty_profile
from millcert.report import render_report
from millcert.report.distribution_chart import panel_svg
from millcert.report.distributions import BARS, MAX_CATEGORIES, MAX_COLUMNS, distributions_of
from millcert.report.model import Counts, Distribution, DistributionPanel, Drift, DriftRow, Provenance, ReportData

HOSTILE = '"><script>alert(1)</script>\u202e'


def profile(seed: int, *, shift: float = 0.0, sources: Sequence[str] = ("a", "b"), keeps_texts: bool = True) -> Profile:
    rng = np.random.default_rng(seed)
    found: Profile | None = None
    for source in sources:
        batch = pa.record_batch(
            {
                "y": pa.array(rng.choice(["cat", "dog"], 200)),
                "score": pa.array(rng.normal(shift, 1, 200)),
                "word": pa.array([f"w{row % 700}" * (1 + row % 3) for row in range(200)]),
                "kind": pa.array(rng.choice(["x", "z", HOSTILE], 200)),
                "nothing": pa.nulls(200, pa.float64()),
                "when": pa.array([{"a": 1}] * 200),
            }
        )
        if found is None:
            spec = ProfileSpec("5a" * 32, label="y", listed_values=100, keeps_texts=keeps_texts)
            found = empty_profile(spec, batch.schema)
        found = add_batch(found, batch, source)
    assert found is not None
    return found


def test_each_column_is_drawn_for_all_rows_and_for_each_source_against_the_reference() -> None:
    drawn = distributions_of(profile(1, shift=1.0), profile(2), ["score", "gone"])

    assert [(one.column, one.what) for one in drawn] == [
        ("score", "values"), ("y", "class"), ("word", "lengths"), ("kind", "categories"),
    ]  # fmt: skip
    assert {panel.source for one in drawn for panel in one.panels} == {"", "a", "b"}
    for one in drawn:
        for panel in one.panels:
            assert sum(panel.current) == pytest.approx(1)
            assert sum(panel.reference) == pytest.approx(1)
    score = drawn[0].panels[0]
    assert len(score.current) == BARS
    # The current numbers lie above the reference's.
    assert np.dot(score.current, range(BARS)) > np.dot(score.reference, range(BARS)) + 1


def test_without_a_reference_and_with_a_new_source_a_side_is_empty() -> None:
    alone = distributions_of(profile(1, sources=("a",)), None)
    new = distributions_of(profile(1), profile(2, sources=("a",)))

    assert {panel.reference for one in alone for panel in one.panels} == {()}
    assert [len(one.panels) for one in alone] == [1] * len(alone)
    assert next(panel for panel in new[0].panels if panel.source == "b").reference == ()


def test_dates_and_times_are_drawn_with_dates_and_times_at_their_ends() -> None:
    days = range(100)
    batch = pa.record_batch(
        {
            "day": pa.array(days, pa.int32()).cast(pa.date32()),
            "at": pa.array([day * 86_400_000 + 1_000 for day in days], pa.int64()).cast(pa.timestamp("ms", "UTC")),
            "far": pa.array([day * 2**55 for day in days], pa.int64()).cast(pa.timestamp("s")),
        }
    )
    found = add_batch(empty_profile(ProfileSpec("5a" * 32, listed_values=50), batch.schema), batch, "a")

    names = {one.column: one.names for one in distributions_of(found, None)}

    assert names["day"][0] == "1970-01-01"
    assert names["day"][-1] > "1970-04-05"
    assert names["at"][0] == "1970-01-01T00:00:01"
    assert names["far"][-1]


def test_values_that_were_not_kept_have_no_name() -> None:
    drawn = distributions_of(profile(1, keeps_texts=False), None)

    assert next(one for one in drawn if one.column == "kind").names == ("(not kept)",) * 3


def test_what_is_drawn_is_bounded() -> None:
    columns = {f"c{at}": pa.array([str(row % 40) for row in range(80)]) for at in range(MAX_COLUMNS + 3)}
    batch = pa.record_batch(columns)
    found = add_batch(empty_profile(ProfileSpec("5a" * 32), batch.schema), batch, "a")

    drawn = distributions_of(found, None)

    assert len(drawn) == MAX_COLUMNS
    assert {len(one.names) for one in drawn} == {MAX_CATEGORIES}


def test_numbers_at_the_ends_of_their_range_are_drawn_without_overflow() -> None:
    batch = pa.record_batch({"x": pa.array([-1.7e308, 0.0, 1.7e308] * 50 + [float(at) for at in range(600)])})
    found = add_batch(empty_profile(ProfileSpec("5a" * 32), batch.schema), batch, "a")

    assert np.isfinite(distributions_of(found, None)[0].panels[0].current).all()


def test_a_drawing_is_escaped_and_needs_nothing_from_outside() -> None:
    panel = DistributionPanel(HOSTILE, (0.5, 0.5), (1.0, 0.0))
    drawing = str(panel_svg(Distribution(HOSTILE, "values", ("0", "1"), (panel,)), panel))

    assert "<script" not in drawing
    assert "\u202e" not in drawing
    assert "http" not in drawing
    assert str(panel_svg(Distribution("x", "values", (), ()), DistributionPanel("", (), ()))).endswith("</svg>")


def test_the_page_shows_effect_limit_and_null_quantile_of_each_comparison() -> None:
    figures = (("psi", 0.377), ("jensen_shannon", 0.25))
    row = DriftRow("", "score", "values", "wasserstein", 0.5, 0.05, 0.031, 1000, 2000, True, HOSTILE, figures)
    report = ReportData(
        dataset="d",
        decision="rejected",
        reasons=(),
        counts=Counts(1, 1, 0, 0),
        files=1,
        size_bytes=1,
        provenance=Provenance("a", "b"),
        drift=Drift("ab12", 40, 1, 2, (row,), columns=(HOSTILE,), new_sources=("east",), silent_sources=("south",)),
        distributions=tuple(distributions_of(profile(1), profile(2))),
    )

    page = render_report(report)

    for text in (
        "wasserstein",
        "0.5",
        "0.05",
        "0.031",
        "Showing 1 of 40",
        "New source",
        "Silent source",
        "cat",
        "jensen shannon",
        "0.377",
    ):
        assert text in page
    assert "<script" not in page
    assert page == render_report(report)
