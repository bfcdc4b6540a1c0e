"""Anchor as a table for people; entries that differ only by a layer's number share a row."""

from typing import TYPE_CHECKING

from textanchor.holds.plan_table import LAYER, merged_numbers
from textanchor.tables import Table

if TYPE_CHECKING:
    from textanchor.holds.anchor import Anchor

HEADER = ("states", "number", "width", "tokens", "sinks")


def anchor_table(anchor: "Anchor") -> str:
    """Provenance, then rows of states (layers as *), how many such entries, width, tokens counted, sinks kept apart."""
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for name, moments in anchor.moments.items():
        row = (str(moments.width), f"{moments.count:.0f}", f"{moments.sink_count:.0f}")
        groups.setdefault(LAYER.sub("*", name), []).append(row)
    rows = [
        (name, str(len(entries)), *(merged_numbers(list(column)) for column in zip(*entries, strict=True)))
        for name, entries in groups.items()
    ]
    origin = ", ".join(f"{key} {value}" for key, value in anchor.provenance.items() if not isinstance(value, dict))
    return f"{origin}\n{Table(HEADER, rows).aligned()}"
