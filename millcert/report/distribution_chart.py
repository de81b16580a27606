"""A small histogram as inline SVG: bars of the current data, the reference as a line over them."""

from markupsafe import Markup

from millcert.report.model import Distribution, DistributionPanel
from millcert.report.visible import plain

_WIDTH, _HEIGHT, _TOP = 160, 64, 4


def panel_svg(distribution: Distribution, panel: DistributionPanel) -> Markup:
    """Return the drawing of one panel; heights are shares of the panel's own largest bar."""
    bars = max(len(panel.reference), len(panel.current), 1)
    tallest = max((*panel.reference, *panel.current, 0.0)) or 1.0
    width = _WIDTH / bars
    where = plain(panel.source) if panel.source else "all rows"
    words = Markup("{} of {} in {}").format(distribution.what, plain(distribution.column), where)
    parts = [Markup('<svg role="img" viewBox="0 0 {} {}" aria-label="{}">').format(_WIDTH, _HEIGHT, words)]
    for at, share in enumerate(panel.current):
        height = share / tallest * (_HEIGHT - _TOP)
        parts.append(
            Markup('<rect class="bar" x="{}" y="{}" width="{}" height="{}"/>').format(
                f"{at * width:.1f}", f"{_HEIGHT - height:.1f}", f"{max(width - 0.6, 0.5):.1f}", f"{height:.1f}"
            )
        )
    if panel.reference:
        steps = []
        for at, share in enumerate(panel.reference):
            y = f"{_HEIGHT - share / tallest * (_HEIGHT - _TOP):.1f}"
            steps.append(f"{at * width:.1f} {y} {(at + 1) * width:.1f} {y}")
        parts.append(Markup('<path class="reference" d="M{}"/>').format(" ".join(steps)))
    parts.append(Markup("</svg>"))
    return Markup("").join(parts)
