"""The page of step zero: a section for each stage of a model, with figures above its tables."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from markupsafe import Markup

from page.draws import TEXT, Key, UpdateDraws
from page.effects import TUNED, extents
from page.spectrum import SpectrumRow, spectrum_rows
from page.tables import StageTables
from textanchor.records import RunRecord
from textanchor.report.charts.axes import Axis, fit
from textanchor.report.charts.lines import Line, line_chart
from textanchor.report.charts.markers import Style, legend_marker
from textanchor.report.charts.strips import Lane, Reference, strip
from textanchor.report.document import Figure, Section, render_tables, render_template
from textanchor.report.numbers import NATS, Value, fixed, percent
from textanchor.tables import VERDICTS, Table, verdict

FRONT = Style("front", "WiSE-FT from the base to the tuned model", "s-text", "ring")
BASES = {
    "text": "s-full",
    "hidden": "s-other-3",
    "text_sensitivity": "s-other-1",
    "reference_sensitivity": "s-other-2",
    "visual": "s-other-4",
    "inputs": "s-app",
}
"""Where a band's directions come from -> color."""
ENDS = {"top": "triangle", "middle": "diamond", "bottom": "square", "random": "cross"}
"""Which end of the spectrum a band begins with -> marker."""
LEADS = {
    "overlap": (
        "Are the directions in which text states spread most those to which answers about images are sensitive? If so, "
        "text alone tells what an update must leave alone."
    ),
    "spectrum": (
        "What it costs the base model when its projector writes at random into one band of directions, at the same "
        "energy for every band."
    ),
    "ablation": (
        "From a plainly tuned projector's update one band of directions is taken out at a time. Which costs little of "
        " the new task and gives much back to the retained ones?"
    ),
    "lora": (
        "The same for a LoRA of the language model that was tuned beside the projector, whose own update stays in. "
        "Text is plain text, in nats per token."
    ),
}
DEFINED = "docs/evidence/step_zero.md defines every term."
BANDS = (
    "A band is a set of directions in a certain order, named by where they come from and by the end of the spectrum "
    "that it begins with; random directions are the control, identity is all directions alike. "
)
WISE = "WiSE-FT interpolates the weights between base and tuned model: what any method must beat. "


def step_zero_sections(stages: Sequence[StageTables], prefix: str = "") -> list[Section]:
    """A section for each stage; `prefix` keeps their anchors apart on one page."""
    return [_section(stage, prefix) for stage in stages]


def _section(stage: StageTables, prefix: str) -> Section:
    title = f"{stage.model}: {stage.title}"
    lead = LEADS[stage.stage]
    if stage.stage == "spectrum":
        body = Markup("").join(
            _strips(record, table) for record, table in zip(stage.records, stage.tables, strict=True)
        )
        return Section(f"{prefix}{stage.stage}", title, lead, body + render_tables([], note=BANDS + DEFINED))
    note = DEFINED
    if stage.updates:
        retained = ", ".join(stage.records[0].extra["retained"])
        lead += f" New is the task tuned on; retained the mean over {retained}."
        note = BANDS + WISE + DEFINED
    body = _figures(stage.updates) + render_tables(stage.tables, note=note)
    return Section(f"{prefix}{stage.stage}", title, lead, body)


def _strips(record: RunRecord, table: Table) -> Markup:
    """One figure for each energy, a whisker for each band; the table below them."""
    rows = spectrum_rows(record)
    charts = [
        {
            "title": f"Added energy {energy:g}",
            "note": "Rise of the retained tasks' cross-entropy, nats per item, with its 95 % interval",
            **_strip_rows([row for row in rows if row.energy == energy]),
        }
        for energy in dict.fromkeys(row.energy for row in rows)
    ]
    return render_template("retention.html", charts=charts, table=table)


def _strip_rows(rows: Sequence[SpectrumRow]) -> dict[str, object]:
    scale = fit(Axis(label="", include=(0.0,)), [end for row in rows for end in (row.change.low, row.change.high)])
    zero = Reference("zero", "no change", 0.0)
    shown = []
    for row in rows:
        change = row.change
        word = verdict({"low": change.low, "high": change.high})
        lane = Lane(look_of(row.band), Value(change.estimate, change.low, change.high))
        shown.append(
            {
                "suite": Markup("_<wbr>").join(row.band.split("_")),
                "tuned": False,
                "hint": f"{row.num_directions} directions",
                "strip": strip(None, [lane], scale=scale, unit=NATS, name=row.band, references=[zero]),
                "change": {"text": NATS.change(change.estimate), "verdict": word, "arrow": VERDICTS[word]},
            }
        )
    return {"ticks": [(f"{100 * scale.position(x):.2f}", label) for x, label in scale.ticks()], "rows": shown}


def look_of(band: str) -> Style:
    """Color by where its directions come from, marker by their end; draws of the control look alike."""
    name = band.rpartition(":")[0] if "random:" in band else band
    source, _, end = name.rpartition("_")
    return Style(name, name, BASES.get(source.partition(":")[0], "s-before"), ENDS.get(end, "disc"))


def _figures(updates: Sequence[UpdateDraws]) -> Markup:
    """For each task what is kept against what was learned: the front as a line, the shares of a band joined."""
    if not updates:
        return Markup("")
    figures, names = [], dict.fromkeys(band for band, _ in extents(updates, "removal"))
    for task in dict.fromkeys(update.task for update in updates):
        own = [update for update in updates if update.task == task]
        figures.append(_figure(task, own, "retained tasks, nats per item", lambda update, key: update.old(key)))
        if all(TEXT in update.conditions[TUNED]["rows"] for update in own):
            figures.append(_figure(task, own, "plain text, nats per token", lambda update, key: update.text(key)))
    note = (
        "Each point is a mean over the seeds; a thin line joins the shares of one band, the smaller share nearer to "
        "the tuned model. Point at a mark to read its numbers. Intervals are in the tables."
    )
    return render_template("figures.html", figures=figures, legend=_legend(names), line_keys=(), note=note)


def _legend(names: Iterable[str]) -> list[tuple[Style, Markup]]:
    """An entry for each look, with the names of all bands that have it."""
    by_look: dict[tuple[str, str], list[str]] = {}
    for look in map(look_of, names):
        labels = by_look.setdefault((look.css, look.marker), [])
        labels += [look.label] if look.label not in labels else []
    looks = [FRONT] + [Style(labels[0], ", ".join(labels), css, shape) for (css, shape), labels in by_look.items()]
    return [(look, legend_marker(look.marker)) for look in looks]


def _figure(
    task: str, updates: Sequence[UpdateDraws], label: str, kept: Callable[[UpdateDraws, Key], np.ndarray]
) -> Figure:
    def point(key: Key) -> tuple[float, float]:
        own = [update for update in updates if key in update.conditions]
        return float(np.mean([u.learned(key)[0] for u in own])), float(np.mean([kept(u, key)[0] for u in own]))

    front = [(f"WiSE-FT, {fixed(key[1], 2)} of the way to the tuned model", point(key)) for key in updates[0].front]
    lines = [
        _line(FRONT, front, kind="solid", end_label="tuned"),
        _line(FRONT, front[1::-1], marks="last", end_label="base"),
    ]
    rows = [[name, "", *_written(at)] for name, at in front]
    shares: dict[str, list[float]] = {}
    for band, share in extents(updates, "removal"):
        shares.setdefault(band, []).append(share)
    for band, own in shares.items():
        points = [(f"{band}, {percent(share)} removed", point(("removal", band, share))) for share in sorted(own)]
        lines.append(_line(look_of(band), points))
        rows += [[band, f"{share:g}", *_written(at)] for share, (_, at) in zip(sorted(own), points, strict=True)]
    chart = line_chart(
        lines,
        title=f"{task}: {label}",
        description=f"{label} against what was learned; a point below the front of WiSE-FT keeps more.",
        x=Axis(label=f"learned of {task}, nats per item"),
        y=Axis(label=label),
    )
    what = label.partition(",")[0]
    note = "Right is learned, down is kept: a mark below the line keeps more than WiSE-FT at equal learning."
    return Figure(
        title=f"{task}: {what}", note=note, chart=chart, table=Table(["Band", "Removed share", "Learned", label], rows)
    )


def _line(
    look: Style,
    points: Sequence[tuple[str, tuple[float, float]]],
    *,
    kind: str = "whisker",
    marks: str = "all",
    end_label: str = "",
) -> Line:
    notes = tuple(f"{name}: learned {fixed(x, 3)}, kept {fixed(y, 3)} nats" for name, (x, y) in points)
    places = tuple(at for _, at in points)
    return Line(style=look, points=places, notes=notes, kind=kind, marks=marks, end_label=end_label)


def _written(at: tuple[float, float]) -> list[str]:
    return [fixed(value, 3) for value in at]
