"""How this was made: enough to make it again."""

import json
import shlex
from typing import Any

from markupsafe import Markup

from textanchor.report.charts.markers import styles
from textanchor.report.check import Report
from textanchor.report.document import Page, render_template
from textanchor.report.numbers import count, duration


def render(report: Report) -> Markup:
    """Facts in groups, then the whole configuration; what the data does not tell is said to be unknown."""
    return render_template(
        "provenance.html",
        command=_command(report),
        groups=[group for group in (_run(report), _model(report), *_environment(report)) if group[1]],
        config=json.dumps(report["config"], indent=2, ensure_ascii=False) if "config" in report else None,
    )


def _command(report: Report) -> str | None:
    command = report.get("command")
    return shlex.join(command) if isinstance(command, list) else command


def _run(report: Report) -> tuple[str, list[tuple[str, str]]]:
    seed, commit = report.get("config", {}).get("seed"), report.get("environment", {}).get("commit")
    facts = [
        ("Created", report["created"]),
        ("textanchor", report["textanchor_version"]),
        ("Commit", "not recorded" if commit is None else str(commit)),
        ("Seed", "not recorded" if seed is None else str(seed)),
    ]
    looks = styles(report)
    facts += [
        (f"Training, {looks[name].label}", duration(run["seconds"]))
        for name, run in report.get("after", {}).items()
        if "seconds" in run
    ]
    cost = report.get("cost", {})
    if "seconds" in cost:
        facts.append(("Whole run", duration(cost["seconds"])))
    if "peak_memory_mb" in cost:
        facts.append(("Most memory held", f"{cost['peak_memory_mb'] / 1024:.2f} GiB"))
    return "Run", facts


def _model(report: Report) -> tuple[str, list[tuple[str, str]]]:
    model = report.get("model", {})
    facts = []
    for key, value in model.items():
        text = count(value) if key == "parameters" else ", ".join(value) if isinstance(value, list) else str(value)
        facts.append((key.replace("_", " ").capitalize(), text))
    return "Model", facts


def _environment(report: Report) -> list[tuple[str, list[tuple[str, str]]]]:
    """Versions, hardware and whatever else the environment holds, one group per key that is an object."""
    environment = report.get("environment", {})
    groups = [(key.capitalize(), _flat(value)) for key, value in environment.items() if isinstance(value, dict)]
    rest = {key: value for key, value in environment.items() if key != "commit" and not isinstance(value, dict)}
    return [*groups, ("Environment", _flat(rest))]


def _flat(values: dict[str, Any]) -> list[tuple[str, str]]:
    return [(str(key), value if isinstance(value, str) else json.dumps(value)) for key, value in values.items()]


PAGE = Page(
    id="made",
    title="How this was made",
    lead="Command, configuration, versions and hardware: what is needed to get these numbers again.",
    needs=("created",),
    render=render,
)
