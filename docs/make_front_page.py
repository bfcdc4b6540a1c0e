"""Writes the README's table and times from the committed records: python docs/make_front_page.py

Both are of runs of the demo (docs/evidence/demo, each made by the command in it).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
EVIDENCE = REPOSITORY / "docs" / "evidence"
README = REPOSITORY / "README.md"
ROWS = {
    "digits, the new task: accuracy": ("tasks", "digits", "accuracy"),
    "five old tasks: accuracy": ("old_mean", "accuracy"),
    "POPE, objects that are there or not: accuracy": ("pope", "accuracy"),
    "plain text: nats per token": ("text", "cross_entropy"),
}
COLUMNS = {"before": "before", "plain tuning": "full", "APP": "app"}
PROCESSORS = {
    "seed0": "with AVX-512 and bfloat16 units",
    "avx2": "with both switched off, so AVX2 alone, as in most desktops and laptops",
}
"""Record of the demo -> what its processor can do."""
BEGIN, END = "<!-- from records: {} -->", "<!-- end of {} -->"


def read(path: Path) -> dict[str, Any]:
    """A record."""
    return json.loads(path.read_text(encoding="utf-8"))


def table() -> str:
    """What was learned and kept, mean of the seeds and from lowest to highest."""
    reports = [read(path) for path in sorted((EVIDENCE / "demo").glob("seed*.json"))]
    what = f"mean of {len(reports)} seeds (lowest to highest)" if len(reports) > 1 else "one run of it, seed 0"
    lines = [
        f"| {what} | {' | '.join(COLUMNS)} |",
        "| --- | --- | --- | --- |",
    ]
    for label, keys in ROWS.items():
        cells = [_cell([_value(_scores(report, column), keys) for report in reports]) for column in COLUMNS.values()]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _scores(report: dict[str, Any], column: str) -> dict[str, Any]:
    return report["before"] if column == "before" else report["after"][column]["scores"]


def _value(scores: Any, keys: Sequence[str]) -> float:
    for key in keys:
        scores = scores[key]
    return scores["estimate"]


def _cell(values: Sequence[float]) -> str:
    def written(value: float) -> str:
        return f"{value:.3f}" if max(values) > 1 else f"{100 * value:.0f}"

    unit = "" if max(values) > 1 else " %"
    mean, low, high = written(fmean(values)), written(min(values)), written(max(values))
    return f"{mean}{unit}" if low == high else f"{mean}{unit} ({low} to {high})"


def times() -> str:
    """How long the demo took on each kind of processor, and what was cut."""
    told = []
    for name, kind in PROCESSORS.items():
        report = read(EVIDENCE / "demo" / f"{name}.json")
        hardware, cost = report["environment"]["hardware"], report["cost"]
        _, _, sizes = report["interval_note"].partition("One seed. ")
        told.append(
            f"- {hardware['processor']}, {hardware['num_cores']} cores, {kind}: {cost['seconds'] / 60:.1f} minutes, "
            f"{cost['peak_memory_mb'] / 1024:.1f} GiB, in {report['precision']['used']}. {sizes}"
        )
    return "\n".join(told)


def front_page() -> str:
    """The README with both."""
    text = README.read_text(encoding="utf-8")
    for name, content in (("table", table()), ("times", times())):
        begin, end = BEGIN.format(name), END.format(name)
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{content}\n{end}{after}"
    return text


if __name__ == "__main__":
    README.write_text(front_page(), encoding="utf-8")
