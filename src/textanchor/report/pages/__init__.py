"""The pages of the report in reading order; to add one, write its file and add it to this list."""

from textanchor.report.page import Page
from textanchor.report.pages import (
    audit,
    curves,
    drift,
    geometry,
    hallucination,
    provenance,
    samples,
    summary,
    tasks,
)

PAGES: tuple[Page, ...] = (
    summary.PAGE,
    tasks.PAGE,
    hallucination.PAGE,
    curves.PAGE,
    samples.PAGE,
    geometry.PAGE,
    drift.PAGE,
    audit.PAGE,
    provenance.PAGE,
)
