"""How methods look: their labels, colors and markers, which differ in print and for color-blind readers too."""

from dataclasses import dataclass

from markupsafe import Markup

from textanchor.report.check import Report

LABELS = {"before": "Before", "full": "Plain tuning", "app": "APP", "lora": "LoRA", "l2sp": "L2-SP"}
MARKERS = {"before": "ring", "full": "square", "app": "disc"}
OTHER_MARKERS = ("diamond", "triangle", "cross")
SHAPES = {
    "ring": '<circle class="ring" r="4.5"/>',
    "disc": '<circle class="mark" r="5"/>',
    "square": '<rect class="mark" x="-4.5" y="-4.5" width="9" height="9"/>',
    "diamond": '<path class="mark" d="M0 -6L6 0L0 6L-6 0Z"/>',
    "triangle": '<path class="mark" d="M0 -5.5L5.5 4.5L-5.5 4.5Z"/>',
    "cross": '<path class="stroke" d="M-4.5 -4.5L4.5 4.5M-4.5 4.5L4.5 -4.5"/>',
}


@dataclass(frozen=True)
class Style:
    """How one method looks everywhere: its label, its CSS class (color) and its marker (never color alone)."""

    key: str
    label: str
    css: str
    marker: str


def styles(report: Report) -> dict[str, Style]:
    """The look of "before" and of each method, in the order of the file."""
    found = {"before": Style("before", LABELS["before"], "s-before", MARKERS["before"])}
    methods: list[str] = list(report.get("after", ()))  # a measurement tunes nothing
    others = [name for name in methods if name not in MARKERS]
    for name in methods:
        if name in MARKERS:
            found[name] = Style(name, LABELS[name], f"s-{name}", MARKERS[name])
        else:
            i = others.index(name)
            marker = OTHER_MARKERS[i % len(OTHER_MARKERS)]
            found[name] = Style(name, LABELS.get(name, name), f"s-other-{i % 4 + 1}", marker)
    return found


def marker(shape: str, x: float | str, y: float | str, note: str = "") -> Markup:
    """A marker centred at (x, y), pixels or per cent of the SVG; `note` is its tooltip."""
    title = Markup("<title>{}</title>").format(note) if note else ""
    return Markup('<svg x="{}" y="{}" overflow="visible"><g>{}{}</g></svg>').format(x, y, Markup(SHAPES[shape]), title)


def legend_marker(shape: str) -> Markup:
    """The marker alone as a 16 pixel wide icon for legends and table heads."""
    return Markup('<svg class="icon" viewBox="-8 -8 16 16" width="16" height="16" aria-hidden="true">{}</svg>').format(
        Markup(SHAPES[shape])
    )
