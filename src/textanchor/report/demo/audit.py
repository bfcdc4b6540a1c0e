"""Audit: whether the held tensors kept their promise, and whether what was saved is what was trained."""

from typing import Any

from markupsafe import Markup

from textanchor.report.charts.markers import legend_marker, styles
from textanchor.report.check import Report
from textanchor.report.demo.readings import without_data
from textanchor.report.document import Page, render_template
from textanchor.report.numbers import ABSENT, compact, duration, percent
from textanchor.tables import Table

RELOAD_TOLERANCE = 1e-5
NUM_WORST = 8
LEAK_MEANING = "share of the update that lies in protected directions"


def render(report: Report) -> Markup:
    """Per method: two checks, leaks summarised per rule, the worst tensors, and all of them as a table."""
    looks = styles(report)
    audits = [
        {"look": looks[name], "icon": legend_marker(looks[name].marker)} | _audit(run["audit"], run.get("seconds"))
        for name, run in report["after"].items()
        if run.get("audit")
    ]
    return render_template("audit.html", audits=audits, note=without_data(report, "audit", "audit"))


def _audit(audit: dict[str, Any], seconds: float | None) -> dict[str, Any]:
    tensors = audit["tensors"]
    difference, lost = audit["reload_max_difference"], audit["trained_not_saved"]
    worst = sorted((t for t in tensors if _leak(t) > 0), key=_leak, reverse=True)[:NUM_WORST]
    return {
        "checks": [
            (
                difference <= RELOAD_TOLERANCE,
                "Reloaded, it gives the same logits"
                if difference <= RELOAD_TOLERANCE
                else "Reloaded, it gives other logits",
                f"largest difference {compact(difference)}, allowed {compact(RELOAD_TOLERANCE)}",
            ),
            (
                not lost,
                "Everything trained was saved" if not lost else f"Trained but not saved: {len(lost)}",
                f"{len(tensors)} tensors looked at" if not lost else ", ".join(lost),
            ),
        ],
        "seconds": None if seconds is None else duration(seconds),
        "rules": Table(
            ["Rule", "Tensors", "Worst weight leak", "Worst function leak", "Mean update / weights"], _rules(tensors)
        ),
        "worst": Table(["Worst tensors", "Rule", "Weight leak", "Function leak", "Update / weights"], _rows(worst)),
        "all": Table(["Tensor", "Rule", "Weight leak", "Function leak", "Update / weights"], _rows(tensors)),
        "num_tensors": len(tensors),
    }


def _leak(tensor: dict[str, Any]) -> float:
    return max(tensor["weight_leak"] or 0.0, tensor["function_leak"] or 0.0)


def _rules(tensors: list[dict[str, Any]]) -> list[list[str]]:
    rows = []
    for rule in dict.fromkeys(tensor["rule"] for tensor in tensors):
        group = [tensor for tensor in tensors if tensor["rule"] == rule]
        leaks = [_worst([t[key] for t in group]) for key in ("weight_leak", "function_leak")]
        update = sum(t["relative_update"] for t in group) / len(group)
        rows.append([rule, str(len(group)), *leaks, percent(update)])
    return rows


def _rows(tensors: list[dict[str, Any]]) -> list[list[str]]:
    return [
        [
            t["name"],
            t["rule"],
            *(_worst([t[key]]) for key in ("weight_leak", "function_leak")),
            percent(t["relative_update"]),
        ]
        for t in tensors
    ]


def _worst(leaks: list[float | None]) -> str:
    known = [leak for leak in leaks if leak is not None]
    return compact(max(known)) if known else ABSENT


PAGE = Page(
    id="audit",
    title="Audit",
    lead=(
        f"A leak is the {LEAK_MEANING}: of the weights, and of the function on held-out inputs. An exact hold "
        "must read zero up to rounding; a free tensor is listed to show what was not promised."
    ),
    needs=("after.*.audit",),
    render=render,
)
