"""report.json to one self-contained report.html: reads JSON only, needs neither torch nor a network."""

from textanchor.report.build import build_report, render_report

__all__ = ["build_report", "render_report"]
