"""The claims: each at every sampled depth, against its null and a margin that was declared beforehand."""

from markupsafe import Markup

from textanchor.report.check import Report
from textanchor.report.document import Page, render_template
from textanchor.report.numbers import compact, fixed
from textanchor.tables import Table

CSS = {"holds": "better", "does not hold": "worse", "undecided": ""}


def render(geometry: Report) -> Markup:
    """One card for each claim: verdict, what is claimed, the numbers at each depth, the caveat."""
    cards = []
    for summed in geometry["verdicts"]:
        own = [c for c in geometry["claims"] if (c["claim"], c["name"]) == (summed["claim"], summed["name"])]
        cards.append(
            {
                "name": f"{summed['claim']} {summed['name']}",
                "verdict": summed["verdict"],
                "css": CSS[summed["verdict"]],
                "where": _where(summed, len(own)),
                "statement": own[0]["statement"],
                "condition": _condition(own[0]),
                "interval_kind": own[0]["interval_kind"],
                "caveat": own[0]["caveat"],
                "table": Table(
                    ["Place", "Value", "Interval", "Verdict"],
                    [[c["place"], fixed(c["value"], 3), _interval(c["interval"]), c["verdict"]] for c in own],
                ),
            }
        )
    return render_template("claims.html", cards=cards, not_measured=geometry["not_measured"])


def _where(summed: Report, num_places: int) -> str:
    if summed["verdict"] != "undecided" or not summed["holds_at"]:
        return "" if num_places == 1 else f"at all {num_places} places" if summed["verdict"] != "undecided" else ""
    return f"holds at {', '.join(summed['holds_at'])}"


def _interval(interval: list[float]) -> str:
    return f"{fixed(interval[0], 3)} to {fixed(interval[1], 3)}"


def _condition(claim: Report) -> str:
    sign = 1 if claim["direction"] == "above" else -1
    side = "above" if sign > 0 else "below"
    null, margin, bound = (compact(x) for x in (claim["null"], claim["margin"], claim["null"] + sign * claim["margin"]))
    return f"Holds where the whole interval lies {side} {bound} (null {null}, margin {margin})"


PAGE = Page(
    id="claims",
    title="Claims",
    lead="Nulls and margins were declared before any result. A claim holds where its whole interval lies beyond the "
    "margin, does not hold where none of it does, and is undecided otherwise or where depths disagree.",
    needs=("verdicts",),
    render=render,
)
