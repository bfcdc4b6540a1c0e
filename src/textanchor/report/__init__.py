"""report.json to one self-contained report.html: reads JSON only, needs neither torch nor a network."""

from textanchor.report.documents import REPORT

build_report, render_report = REPORT.build, REPORT.render

__all__ = ["build_report", "render_report"]
