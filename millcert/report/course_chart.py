"""A course over versions as inline SVG: the effect since the first one, the limit, and where the change-point is."""

from markupsafe import Markup

from millcert.report.model import CourseChange
from millcert.report.visible import plain

_WIDTH, _HEIGHT, _MARGIN = 160, 64, 4


def course_svg(change: CourseChange) -> Markup:
    """Return the drawing of one change; the first version stands at the left with no effect, this data at the right."""
    effects = (0.0, *change.course)
    tallest = max(change.limit, *(effect for effect in effects if effect is not None)) or 1.0
    step = (_WIDTH - 2 * _MARGIN) / max(len(effects) - 1, 1)

    def height(effect: float) -> str:
        return f"{_HEIGHT - _MARGIN - effect / tallest * (_HEIGHT - 2 * _MARGIN):.1f}"

    where = plain(change.source) if change.source else "all rows"
    words = Markup("{} of {} in {} over {} versions").format(
        plain(change.measure), plain(change.column), where, len(effects)
    )
    parts = [
        Markup('<svg role="img" viewBox="0 0 {} {}" aria-label="{}">').format(_WIDTH, _HEIGHT, words),
        Markup('<rect class="bar" x="{}" y="0" width="1" height="{}"/>').format(
            f"{_MARGIN + (change.at - 0.5) * step:.1f}", _HEIGHT
        ),
        Markup('<path class="threshold" fill="none" d="M0 {0} {1} {0}"/>').format(height(change.limit), _WIDTH),
    ]
    line, is_drawn = [], False
    for at, effect in enumerate(effects):
        if effect is not None:  # a version with too few rows leaves a gap
            line.append(f"{'L' if is_drawn else 'M'}{_MARGIN + at * step:.1f} {height(effect)}")
        is_drawn = effect is not None
    parts.append(Markup('<path class="reference" d="{}"/></svg>').format(" ".join(line)))
    return Markup("").join(parts)
