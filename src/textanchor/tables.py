"""One table and the three ways to write it; the words for parts of a model, for measures and for verdicts."""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as RichTable

NUMBER = re.compile(r"\d+(?:\.\d+)?")
LAYER = re.compile(r"(?<=\.)\d+(?=\.)")
"""A layer's number in the name of a tensor."""
PART_TITLES = {
    "vision_tower": "vision tower",
    "projector": "projector",
    "language_model": "language model",
    "embedding": "input embedding",
    "head": "output head",
    "other": "rest",
}
"""Parts of a model as pages and tables call them, in their order there."""
VERDICTS = {"worse": "▲", "better": "▼", "unclear": "≈", "equal": "="}
"""Words on a forgetting (see `verdict`), and the sign that stands before each."""
CLAIM_VERDICTS = ("holds", "does not hold", "undecided")


@dataclass(frozen=True)
class Measure:
    """What is compared between two runs: a value for each item, whose mean is the suite's score."""

    title: str
    unit: str
    higher_is_better: bool
    heading: str
    """Title where it stands alone."""
    lost: str
    """What forgetting is, in words; of every measure, positive forgetting is worse."""

    @property
    def is_share(self) -> bool:
        """Whether changes are written in percentage points."""
        return self.unit.startswith("share")


MEASURES: dict[str, Measure] = {
    "accuracy": Measure("accuracy", "share", True, "Accuracy", "percentage points of right answers lost"),
    "gold_nats": Measure(
        "right answer", "nats per item", False, "Cross-entropy of the right answer", "nats per item more"
    ),
    "text_nats": Measure("text", "nats per token", False, "Cross-entropy of text", "nats per token more"),
    "chair_s": Measure(
        "CHAIR_s",
        "share of captions",
        False,
        "Captions that name what is not there",
        "percentage points of captions more",
    ),
    "cider_d": Measure("CIDEr-D", "of 10", True, "Captions, CIDEr-D", "of 10, lost"),
}


def verdict(lost: Mapping[str, float]) -> str:
    """A word on a forgetting that its interval supports."""
    if lost["low"] > 0:
        return "worse"
    return "better" if lost["high"] < 0 else "unclear" if lost["low"] < lost["high"] else "equal"


@dataclass(frozen=True)
class Table:
    """Strings in rows; the first column names the row, the others are set as numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    note: str = ""
    """One sentence that says how the table is read."""

    def aligned(self) -> str:
        """Plain text in columns of equal width; cells that begin with a digit are set to the right."""
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]

        def line(row: Sequence[str]) -> str:
            cells = (c.rjust(w) if c[:1].isdigit() else c.ljust(w) for c, w in zip(row, widths, strict=True))
            return "  ".join(cells).rstrip()

        return "\n".join([line(self.header), "  ".join("-" * w for w in widths), *map(line, self.rows)])

    def markdown(self) -> str:
        """Heading of the third level, how the table is read, and its rows; without a line break at the end."""
        above = [text for text in (f"### {self.title}" if self.title else "", self.note) if text]
        rule = ["---"] + ["---:"] * (len(self.header) - 1)
        lines = [f"| {' | '.join(c.replace('|', '/') for c in cells)} |" for cells in (self.header, rule, *self.rows)]
        return "\n\n".join([*above, "\n".join(lines)])

    def rich(self, *, wrap: bool = True) -> "RichTable":
        """For a `rich` console; without `wrap`, only the first column gives way where it is too narrow."""
        from rich import box
        from rich.table import Table as RichTable

        shown = RichTable(title=self.title or None, box=box.SIMPLE_HEAD, title_justify="left")
        for i, header in enumerate(self.header):
            shown.add_column(header, justify="left" if i == 0 else "right", no_wrap=i > 0 and not wrap)
        for row in self.rows:
            shown.add_row(*row)
        return shown


def markdown_tables(tables: Iterable[Table]) -> str:
    """The tables below each other, without a line break at the end."""
    return "\n\n".join(table.markdown() for table in tables)


def terminal_tables(tables: Iterable[Table], *, width: int) -> str:
    """The tables below each other as text of at most `width` columns, in which long cells are wrapped."""
    from rich.console import Console

    buffer = io.StringIO()
    console = Console(file=buffer, width=width, highlight=False, color_system=None)
    for table in tables:
        console.print(table.rich())
    return buffer.getvalue().rstrip()


def merged_numbers(texts: list[str]) -> str:
    """One text for several that differ in numbers only; otherwise the distinct ones in order."""
    if len({NUMBER.sub("", text) for text in texts}) > 1:
        return "; ".join(dict.fromkeys(texts))
    columns = zip(*(NUMBER.findall(text) for text in texts), strict=True)
    ranges = [sorted(set(column), key=float) for column in columns]
    merged = iter(f"{column[0]}-{column[-1]}" if len(column) > 1 else column[0] for column in ranges)
    return NUMBER.sub(lambda _: next(merged), texts[0])
