"""A score histogram as inline SVG: bars on a logarithmic scale, the flagged part hatched, the threshold drawn."""

import math

from markupsafe import Markup

from millcert.report.model import Histogram
from millcert.report.visible import number

_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 640, 170, 8, 22, 20


def histogram_svg(histogram: Histogram, identifier: int) -> Markup:
    """Return the drawing; `identifier` is any number that is unique in the page.

    Heights are log(1 + count), because a handful of flagged samples beside a million others is the point of the chart.
    """
    total, flagged = sum(histogram.counts), sum(histogram.flagged_counts)
    low, high = _range(histogram)
    threshold = histogram.threshold
    has_line = threshold is not None and math.isfinite(threshold)
    summary = f"{total:,} samples scored, {flagged:,} flagged; scores from {number(low)} to {number(high)}"
    summary += f"; threshold {number(threshold)}." if has_line else "; no single threshold."
    parts = [
        Markup('<svg role="img" viewBox="0 0 {} {}" aria-labelledby="chart-{}">').format(_WIDTH, _HEIGHT, identifier),
        Markup('<title id="chart-{}">{}</title>').format(identifier, "Histogram of scores. " + summary),
        Markup(
            '<defs><pattern id="hatch-{}" width="5" height="5" patternUnits="userSpaceOnUse">'
            '<rect class="flagged" width="5" height="5"/><path class="hatch" d="M0 5 5 0"/></pattern></defs>'
        ).format(identifier),
        *_bars(histogram, low, high, identifier),
        _label(_LEFT, _HEIGHT - 5, "start", number(low)),
        _label(_WIDTH - _LEFT, _HEIGHT - 5, "end", number(high)),
    ]
    if threshold is not None and has_line:
        x = _place(threshold, low, high)
        parts.append(
            Markup('<line class="threshold" x1="{0}" x2="{0}" y1="{1}" y2="{2}"/>').format(x, _TOP, _HEIGHT - _BOTTOM)
        )
        anchor = "end" if float(x) > _WIDTH / 2 else "start"
        parts.append(_label(float(x), _TOP - 8, anchor, f"threshold {number(threshold)}"))
    parts.append(Markup("</svg><p class='note'>{}</p>").format(summary + " Bar heights are logarithmic."))
    return Markup("").join(parts)


def _range(histogram: Histogram) -> tuple[float, float]:
    low, high = histogram.edges[0], histogram.edges[-1]
    if histogram.threshold is not None and math.isfinite(histogram.threshold):
        low, high = min(low, histogram.threshold), max(high, histogram.threshold)
    return low, high


def _place(value: float, low: float, high: float) -> str:
    # Halves, so that the width of the range cannot overflow.
    width = high / 2 - low / 2
    part = (value / 2 - low / 2) / width if width > 0 else 0.5
    return f"{_LEFT + part * (_WIDTH - 2 * _LEFT):.1f}"


def _bars(histogram: Histogram, low: float, high: float, identifier: int) -> list[Markup]:
    tallest = math.log1p(max(histogram.counts, default=0)) or 1.0
    bars: list[Markup] = []
    for index, count in enumerate(histogram.counts):
        left = float(_place(histogram.edges[index], low, high))
        width = max(1.0, float(_place(histogram.edges[index + 1], low, high)) - left - 0.5)
        for amount, fill in ((count, "bar"), (histogram.flagged_counts[index], f"url(#hatch-{identifier})")):
            height = math.log1p(amount) / tallest * (_HEIGHT - _TOP - _BOTTOM)
            if amount:
                style = Markup('class="bar"') if fill == "bar" else Markup('fill="{}"').format(fill)
                bars.append(
                    Markup('<rect {} x="{}" y="{}" width="{}" height="{}"/>').format(
                        style, f"{left:.1f}", f"{_HEIGHT - _BOTTOM - height:.1f}", f"{width:.1f}", f"{height:.1f}"
                    )
                )
    return bars


def _label(x: float, y: int, anchor: str, text: str) -> Markup:
    return Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(x, y, anchor, text)
