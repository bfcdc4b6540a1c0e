"""The short table that the demo prints."""

from collections.abc import Mapping
from typing import Any

from textanchor.tables import Table

TITLES = {"full": "plain tuning", "app": "APP"}


def result_table(report: Mapping[str, Any]) -> Table:
    """New task, old tasks, hallucination and text: before, and after each method."""
    columns: dict[str, Any] = {
        "before": report["before"],
        **{name: run["scores"] for name, run in report["after"].items()},
    }
    new = report["new_task"]
    rows = {
        f"{new}: accuracy (new task)": [_share(s["tasks"][new]["accuracy"]) for s in columns.values()],
        "old tasks: accuracy": [_share(s["old_mean"]["accuracy"]) for s in columns.values()],
        "old tasks: nats of the right answer": [
            f"{s['old_mean']['gold_nats']['estimate']:.2f}" for s in columns.values()
        ],
        "POPE: accuracy": [_share(s["pope"]["accuracy"]) for s in columns.values()],
        "captions: hallucinated objects (CHAIR_i)": [_percent(s["chair"]["chair_i"]) for s in columns.values()],
        "text: nats per token": [f"{s['text']['cross_entropy']['estimate']:.3f}" for s in columns.values()],
    }
    header = ["", *(TITLES.get(name, name) for name in columns)]
    return Table(header, [[title, *cells] for title, cells in rows.items()], report["title"])


def _share(interval: Mapping[str, float]) -> str:
    return _percent(interval["estimate"])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"
