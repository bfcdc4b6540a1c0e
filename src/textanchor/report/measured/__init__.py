"""The sections of geometry.html in reading order; to add one, write its file and add it to this list."""

from textanchor.report.measured import claims, gap, lens, pairs, spread, subspaces
from textanchor.report.page import Page
from textanchor.report.pages import provenance

SECTIONS: tuple[Page, ...] = (
    claims.PAGE,
    spread.PAGE,
    gap.PAGE,
    subspaces.PAGE,
    pairs.PAGE,
    lens.PAGE,
    provenance.PAGE,
)
