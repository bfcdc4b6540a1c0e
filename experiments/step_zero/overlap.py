"""(d) How much of the reference sensitivity lies in the leading directions of text, against k / D."""

from typing import Any

from anchors import anchor_folds
from bands.overlap import overlaps
from bench import Bench

from textanchor.config import to_dict
from textanchor.holds.sources import REFERENCE_SENSITIVITY, TEXT_EMBEDDING, TEXT_SENSITIVITY, VISUAL


def overlap_rows(bench: Bench) -> list[dict[str, Any]]:
    """Overlaps of the leading directions of texts and images."""
    folds, asked = anchor_folds(bench)
    hidden = [f"hidden:{depth}" for depth in bench.settings.reference.hidden]
    pairs = [(first, REFERENCE_SENSITIVITY) for first in (TEXT_EMBEDDING, *hidden, TEXT_SENSITIVITY, VISUAL)]
    pairs += [(REFERENCE_SENSITIVITY, REFERENCE_SENSITIVITY), (TEXT_EMBEDDING, TEXT_SENSITIVITY)]
    pairs += [(TEXT_EMBEDDING, VISUAL)]
    counts = bench.settings.overlap_counts
    rows: list[dict[str, Any]] = []
    for first, second in pairs:
        condition = {"first": first, "second": second}
        found = bench.measured(
            "overlap",
            condition,
            [],
            lambda first=first, second=second: {"counts": [to_dict(o) for o in overlaps(folds, first, second, counts)]},
            anchor=asked,
            counts=list(counts),
        )
        rows.append(found)
    return rows
