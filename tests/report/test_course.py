"""The course over versions in the report: small drawings by source, harmless, with gaps and change-points."""

import re
from dataclasses import replace

from millcert.report import render_report
from millcert.report.course_chart import course_svg
from millcert.report.model import Counts, Course, CourseChange, Drift, Provenance, ReportData

HOSTILE = '"><script>alert(1)</script>\u202e'
CHANGE = CourseChange(
    "north", "score", "values", "wasserstein", 0.4, 0.05, 0.02, at=2, pace="gradual", course=(0.1, None, 0.3, 0.4)
)


def page(course: Course | None) -> str:
    drift = Drift("ab" * 32, 10, 1, 0, (), course=course)
    return render_report(ReportData("set", "admitted", (), Counts(1, 1, 0, 0), 1, 1, Provenance("", ""), drift=drift))


def test_the_line_has_a_point_a_version_and_a_gap_where_one_had_too_few_rows() -> None:
    line = re.findall(r'class="reference" d="([^"]*)"', course_svg(CHANGE))[0]

    assert line.count("M") == 2
    assert len(re.findall("[ML]", line)) == 4  # five versions, one of them without an effect
    heights = [float(each) for each in re.findall(r"[ML][\d.]+ ([\d.]+)", line)]
    assert heights == sorted(heights, reverse=True)  # larger effects stand higher, which is a smaller y


def test_changes_are_grouped_by_source_and_what_is_left_out_is_counted() -> None:
    south = replace(CHANGE, source="south")
    found = page(Course(4, 60, (CHANGE, south, replace(CHANGE, column="other"))))

    section = found[found.index('id="course"') :]
    assert [section.index(f"<bdi>{name}</bdi>") for name in ("north", "south")] == sorted(
        section.index(f"<bdi>{name}</bdi>") for name in ("north", "south")
    )
    assert section.index("<bdi>other</bdi>") < section.index("<bdi>south</bdi>")
    assert section.count("<svg") == 3
    assert "57 more are not shown" in section


def test_names_cannot_leave_their_place() -> None:
    found = page(Course(4, 1, (replace(CHANGE, source=HOSTILE, column=HOSTILE, detail=HOSTILE),)))

    assert "<script" not in found
    assert "\u202e" not in found


def test_a_steady_course_one_without_versions_and_none_are_told_apart() -> None:
    assert "Steady: nothing changed" in page(Course(4, 0, ()))
    assert "there is no course" in page(Course(0, 0, ()))
    assert 'id="course"' not in page(None)
