"""The report: a verdict as one HTML file that needs nothing else, for a reader who does not trust the data in it.

Rules this module keeps:
  1. One file: no script, no link to anywhere, no font, no image but data URIs that `images` let through; a content
     security policy says so to the browser as well.
  2. Every text passes through `visible.shown`, because the template engine's `finalize` puts it there: a template
     cannot forget to. What a template writes into an attribute passes through `visible.plain`.
  3. Every list is capped, and the cap is stated.
"""

import functools
import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from millcert.report import visible
from millcert.report.chart import histogram_svg
from millcert.report.course_chart import course_svg
from millcert.report.distribution_chart import panel_svg
from millcert.report.images import MAX_PIXELS, data_uri, encode_png, image_header, why_not_shown
from millcert.report.model import CourseChange, Drift, Finding, PixelArray, ReportData, SampleValue

MAX_FINDINGS = 200
MAX_ROWS = 500
#: Changes over versions that are drawn.
MAX_COURSES = 48
MAX_GROUPS = 50
MAX_MALFORMED = 100
MAX_FIELDS = 16
MAX_ITEMS = 32
#: Our choice: what all images of a report may weigh before Base64.
MAX_IMAGES_BYTES = 8 * 1024 * 1024

_STATUS_WORDS = frozenset({
    "admitted", "rejected", "inconclusive", "verified", "unknown", "refused", "passed", "warned", "failed",
})  # fmt: skip


@dataclass(frozen=True)
class Capped:
    """The first of a list's items, with how many there are in all."""

    items: Sequence[Any]
    total: int

    @property
    def note(self) -> str:
        """What is left out, in words; "" if nothing is."""
        hidden = self.total - len(self.items)
        return f"Showing {len(self.items):,} of {self.total:,}; {hidden:,} more are not shown." if hidden > 0 else ""


def render_report(report: ReportData) -> str:
    """Return a report as HTML: one self-contained page, the same bytes for the same data.

    At most 200 findings, 100 malformed rows, 50 groups a check and 500 of anything else are shown; what is left out is
    counted. Size: about 5 kB a finding as a rule, and at most some 20 MB for data made to be large when escaped.
    """
    findings = report.findings[:MAX_FINDINGS]
    return _template().render(
        report=report,
        reasons=_capped(report.reasons),
        sources=_capped(report.sources),
        expectations=_capped(report.expectations),
        drift_rows=Capped(report.drift.rows[:MAX_ROWS], report.drift.compared) if report.drift else Capped((), 0),
        courses=_courses(report.drift),
        distributions=_capped(report.distributions),
        work=_capped(report.work),
        checks=_capped(report.checks),
        clusters=Capped(report.clusters[:MAX_ROWS], max(report.clusters_total, len(report.clusters))),
        not_covered=_capped(report.not_covered),
        commands=_capped(report.next_commands),
        findings=Capped(
            list(zip(findings, _samples(findings), strict=True)), max(report.findings_total, len(report.findings))
        ),
        malformed=Capped(report.malformed[:MAX_MALFORMED], max(report.counts.malformed, len(report.malformed))),
        groups_of=lambda check: Capped(check.evidence[:MAX_GROUPS], max(check.groups, len(check.evidence))),
    )


def _courses(drift: Drift | None) -> Capped:
    """Return the changes over versions by source, each source where its strongest change stands."""
    course = None if drift is None else drift.course
    if course is None:
        return Capped((), 0)
    by_source: dict[str, list[CourseChange]] = {}
    for change in course.changes[:MAX_COURSES]:
        by_source.setdefault(change.source, []).append(change)
    return Capped([change for changes in by_source.values() for change in changes], course.found)


def _capped(items: Sequence[Any]) -> Capped:
    return Capped(items[:MAX_ROWS], len(items))


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_final
    )
    environment.filters.update(
        number=visible.number, percent=visible.percent, size=visible.size, plain=visible.plain, badge=_badge,
        lines=visible.shown_lines,
    )  # fmt: skip
    environment.globals.update(
        chart=histogram_svg, panel_chart=panel_svg, course_chart=course_svg, newline=Markup("\n")
    )
    text = importlib.resources.files("millcert.report").joinpath("templates", "report.html.j2").read_text("utf-8")
    return environment.from_string(text)


def _final(value: object) -> Markup:
    """Make whatever a template prints safe: the rule that no template can forget."""
    if isinstance(value, Markup):
        return value
    return visible.shown(value if isinstance(value, str) else visible.number(value))  # type: ignore[arg-type]  # else fails loudly


def _badge(word: str) -> Markup:
    """Return a status as a coloured word; the class is one of ours, never the text."""
    kind = word if word in _STATUS_WORDS else "other"
    return Markup('<strong class="badge {}">{}</strong>').format(kind, visible.shown(word))


def _samples(findings: Sequence[Finding]) -> list[Capped]:
    """Return each finding's fields as (name, HTML), spending the images' budget from the first finding on."""
    budget = MAX_IMAGES_BYTES
    samples: list[Capped] = []
    for finding in findings:
        fields: list[tuple[str, Markup]] = []
        for field in finding.sample[:MAX_FIELDS]:
            image, words = _image(field.value, budget)
            budget -= len(image)
            alt = visible.plain(f"Field {field.name} of row {finding.row}: {words}")
            html = Markup('<img src="{}" alt="{}" loading="lazy">').format(data_uri(image), alt) if image else words
            fields.append((field.name, html if isinstance(html, Markup) else visible.shown(html)))
        samples.append(Capped(fields, len(finding.sample)))
    return samples


def _image(value: SampleValue, budget: int) -> tuple[bytes, str]:
    """Return (image bytes, what they are), or (b"", the value as HTML or in words)."""
    if isinstance(value, PixelArray):
        described = f"image of {value.width:,} x {value.height:,} pixels"
        if value.width * value.height > MAX_PIXELS:
            return b"", f"{described}, too large to show"
        data = encode_png(value)
    elif isinstance(value, bytes):
        reason = why_not_shown(value)
        if reason:
            return b"", f"{len(value):,} bytes: {reason}; they begin with {value[:16].hex() or 'nothing'}"
        header = image_header(value)
        assert header is not None
        described, data = f"{header.kind} image of {header.width:,} x {header.height:,} pixels", value
    else:
        return b"", _value(value)
    return (data, described) if len(data) <= budget else (b"", f"{described}; this report holds no more images")


def _value(value: str | float | tuple[str | int | float, ...] | None) -> Markup:
    if value is None:
        return Markup('<span class="note">null</span>')
    if isinstance(value, str):
        return visible.shown_lines(value)
    if isinstance(value, tuple):
        items = [visible.shown(v) if isinstance(v, str) else Markup(visible.number(v)) for v in value[:MAX_ITEMS]]  # noqa: S704 - digits
        rest = f" and {len(value) - MAX_ITEMS:,} more" if len(value) > MAX_ITEMS else ""
        return Markup("{} items: {}{}").format(f"{len(value):,}", Markup(", ").join(items), rest)
    return visible.shown(visible.number(value))
