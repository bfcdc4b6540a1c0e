"""The page of retention.json, which `textanchor evaluate --baseline` writes: what a model kept and what it lost."""

from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup

from textanchor.report.charts.axes import Axis, fit
from textanchor.report.charts.lines import Guide, Line, line_chart
from textanchor.report.charts.markers import Style, legend_marker
from textanchor.report.charts.strips import Lane, Reference, strip
from textanchor.report.check import INTERVAL, Named, Nullable, Report, is_bool, is_count, is_number, is_text
from textanchor.report.document import Figure, Page, render_template
from textanchor.report.numbers import NATS, SHARE, Value
from textanchor.tables import MEASURES, VERDICTS, Table, verdict

MEASURED = {"before": is_number, "after": is_number, "forgetting": INTERVAL}
SUITE = {
    "kind": is_text,
    "tuned": is_bool,
    "num_items": is_count,
    "measures": Named(MEASURED),
    "format_loss": Nullable({"total": INTERVAL, "real": INTERVAL, "format": INTERVAL}),
}
POINT = {"run": is_text, "learned": Named(Nullable(is_number)), "kept": Named(Nullable(is_number))}
MATCHED = {
    "level": Nullable(is_number),
    "reached": Named(is_bool),
    "kept": Named(Nullable(Named(Nullable(is_number)))),
    "curves": Named([POINT]),
}
RETENTION = {
    "created": is_text,
    "textanchor_version": is_text,
    "runs": [is_text],
    "tuned": [is_text],
    "not_compared": [is_text],
    "suites": Named(SUITE, at_least=1),
    "transfer": Named(Named({"suites": [is_text], **INTERVAL})),
    "h_mean": Nullable({"upstream": is_number, "downstream": is_number, "value": is_number}),
    "bwt": Nullable(Named(INTERVAL)),
    "curve": [POINT],
    "matched": Nullable(MATCHED),
}
THIS, OTHER = Style("this", "This run", "s-app", "disc"), Style("other", "The other method", "s-full", "square")
KEPT = ("accuracy", "gold_nats", "language_accuracy", "language_gold_nats", "text_nats")
KEPT_TITLES = {"language_accuracy": "Accuracy, language", "language_gold_nats": "Right answer in nats, language"}


def render_suites(report: Report) -> Markup:
    """One figure for each measure: a whisker for each suite around its forgetting, and the line of no change."""
    charts = []
    for measure, known in MEASURES.items():
        having = {name: suite for name, suite in report["suites"].items() if measure in suite["measures"]}
        if having:
            charts.append({"title": known.heading, "note": known.lost, **_rows(having, measure)})
    header = ["Suite", "Measure", "Before", "After", "Forgetting", "Interval", "Items"]
    return render_template("retention.html", charts=charts, table=Table(header, list(_numbers(report))))


def _rows(suites: Mapping[str, Any], measure: str) -> dict[str, Any]:
    unit = SHARE if MEASURES[measure].is_share else NATS
    shown_as = 100 if unit is SHARE else 1  # shares in percentage points, as their changes are written
    lost = {name: suite["measures"][measure]["forgetting"] for name, suite in suites.items()}
    shown = {
        name: Value(*(shown_as * value[end] for end in ("estimate", "low", "high"))) for name, value in lost.items()
    }
    ends = [end for value in shown.values() for end in (value.low, value.high) if end is not None]
    scale = fit(Axis(label="", include=(0.0,)), ends)
    rows = []
    for name, suite in suites.items():
        values, word = suite["measures"][measure], verdict(lost[name])
        before, after = unit.number(values["before"]), unit.number(values["after"])
        zero = Reference("zero", "no change", 0.0)
        rows.append(
            {
                "suite": name,
                "tuned": suite["tuned"],
                "hint": f"{suite['num_items']} items, {before} to {after}",
                "strip": strip(None, [Lane(THIS, shown[name])], scale=scale, unit=NATS, name=name, references=[zero]),
                "change": {"text": unit.change(lost[name]["estimate"]), "verdict": word, "arrow": VERDICTS[word]},
            }
        )
    ticks = [(f"{100 * scale.position(x):.2f}", label) for x, label in scale.ticks()]
    return {"ticks": ticks, "rows": rows}


def _numbers(report: Report) -> Iterable[list[str]]:
    for name, suite in report["suites"].items():
        for measure, values in suite["measures"].items():
            lost = values["forgetting"]
            cells = [NATS.number(values["before"]), NATS.number(values["after"]), NATS.change(lost["estimate"])]
            yield [name, MEASURES[measure].heading, *cells, _interval(lost), str(suite["num_items"])]


def _interval(value: Mapping[str, float]) -> str:
    return f"{NATS.change(value['low'])} to {NATS.change(value['high'])}"


def render_sums(report: Report) -> Markup:
    """Transfer, H-mean, BWT, format loss and the comparison at matched learning as one table of words and numbers."""
    rows = list(_sums(report))
    return render_template("retention_sums.html", table=Table(["What", "Value", "Interval", "Of what"], rows))


def _sums(report: Report) -> Iterable[list[str]]:
    for kind, measures in report["transfer"].items():
        for measure, mean in measures.items():
            what = f"{MEASURES[measure].heading}: mean change over {', '.join(mean['suites'])}"
            yield [f"Transfer, {kind} suites", NATS.change(mean["estimate"]), _interval(mean), what]
    if report["h_mean"] is not None:
        h = report["h_mean"]
        what = f"2UD/(U+D), kept accuracy U {SHARE.number(h['upstream'])}, tuned D {SHARE.number(h['downstream'])}"
        yield ["H-mean", SHARE.number(h["value"]), "", what]
    for measure, mean in (report["bwt"] or {}).items():
        what = f"{MEASURES[measure].heading}, over the tuned tasks"
        yield ["BWT", NATS.change(mean["estimate"]), _interval(mean), what]
    for name, suite in report["suites"].items():
        parts = {"total": "read strictly", "real": "read leniently", "format": "strict minus lenient"}
        for part, what in parts.items() if suite["format_loss"] is not None else ():
            lost = suite["format_loss"][part]
            yield [f"{name}, {part} loss", NATS.change(lost["estimate"]), _interval(lost), f"accuracy {what}"]
    matched = report["matched"] or {"level": None, "kept": {}}
    for name, kept in matched["kept"].items() if matched["level"] is not None else ():
        for measure in KEPT:
            if kept.get(measure) is not None:
                what = f"{_title(measure)}, where both have learned to {SHARE.number(matched['level'])}"
                yield [f"{name}, at matched learning", NATS.number(kept[measure]), "", what]


def _title(measure: str) -> str:
    return KEPT_TITLES.get(measure) or MEASURES[measure].heading


def render_curve(report: Report) -> Markup:
    """What was kept against what was learned, run by run; beside it the other method, where there is one."""
    curves = [(THIS, report["runs"][-1], report["curve"])]
    others = (report["matched"] or {"curves": {}})["curves"]
    curves += [(OTHER, name, points) for name, points in others.items()]
    figures = [figure for measure in KEPT if (figure := _figure(report, measure, curves)) is not None]
    legend = [(Style(look.key, name, look.css, look.marker), legend_marker(look.marker)) for look, name, _ in curves]
    note = "Lines join the runs in their order; between them nothing was measured."
    return render_template("figures.html", figures=figures, legend=legend, line_keys=(), note=note)


def _figure(report: Report, measure: str, curves: Iterable[tuple[Style, str, Any]]) -> Figure | None:
    lines, rows = [], []
    for look, name, points in curves:
        known = [(p["run"], p["learned"]["accuracy"], p["kept"].get(measure)) for p in points]
        known = [(run, x, y) for run, x, y in known if x is not None and y is not None]
        notes = tuple(f"{run}: learned {SHARE.number(x)}, kept {NATS.number(y)}" for run, x, y in known)
        if known:
            lines.append(Line(style=look, points=tuple((x, y) for _, x, y in known), notes=notes))
        rows += [[name, run, SHARE.number(x), NATS.number(y)] for run, x, y in known]
    if not lines:
        return None
    level = (report["matched"] or {"level": None})["level"]
    chart = line_chart(
        lines,
        title=_title(measure),
        description=f"{_title(measure)} of what was not tuned on, against accuracy on {', '.join(report['tuned'])}.",
        x=Axis(label=f"learned: {', '.join(report['tuned'])}, accuracy", kind="share"),
        y=Axis(label=f"kept: {_title(measure).lower()}"),
        guides=[] if level is None else [Guide("x", level, f"reached by both: {SHARE.number(level)}")],
    )
    better = "Up is kept." if measure.endswith("accuracy") else "Down is kept."
    return Figure(
        title=_title(measure), note=better, chart=chart, table=Table(["Curve", "Run", "Learned", "Kept"], rows)
    )


PAGES: tuple[Page, ...] = (
    Page(
        id="forgetting",
        title="Kept and lost, suite by suite",
        lead=(
            "Each mark is the mean change of a suite from the first run to the last, the same items before and after, "
            "turned so that right is worse. Whiskers are 95 % intervals over items: where they touch the line of no "
            "change, nothing can be said."
        ),
        needs=("suites",),
        render=render_suites,
    ),
    Page(
        id="sums",
        title="Summed up",
        lead=(
            "Transfer is the mean change over what was not tuned on, so below zero of an accuracy is a loss. A right "
            "answer in another format is a loss of format, not of ability."
        ),
        needs=("transfer.*", "h_mean", "bwt", "matched"),
        render=render_sums,
    ),
    Page(
        id="curve",
        title="Learning against keeping, run by run",
        lead="Two methods are compared fairly where they have learned equally much: on a vertical line.",
        needs=("curve",),
        render=render_curve,
    ),
)


def masthead(retention: Report) -> Report:
    """Title, creation, version and the tasks tuned on."""
    return {
        "title": f"What {retention['runs'][-1]} kept of {retention['runs'][0]}",
        "created": retention["created"],
        "textanchor_version": retention["textanchor_version"],
        "new_task": ", ".join(retention["tuned"]) or "none named",
    }
