"""A verdict as one self-contained HTML file."""

from millcert.report.render import render_report

__all__ = ["render_report"]
