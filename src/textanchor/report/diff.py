"""The page of a diff: the verdict, the parts, where updates lie in text space, every tensor."""

from typing import Any

from markupsafe import Markup

from textanchor.report.charts.axes import Axis
from textanchor.report.charts.lines import Line, line_chart
from textanchor.report.charts.markers import Style
from textanchor.report.document import Section, render_plain, render_tables, render_template
from textanchor.report.numbers import ABSENT, compact, duration, fixed, percent
from textanchor.tables import PART_TITLES, Table

DiffJson = dict[str, Any]
"""Content of diff.json, as `DiffReport.to_dict` makes it."""

NUM_LARGEST = 12
SEVERITIES = {"lost": "Something was lost", "warning": "Look at this", "note": "All there"}
LOOKS = {"projector": Style("projector", "projector", "s-app", "disc")}
LOOKS["language_model"] = Style("language_model", "language model", "s-full", "square")
CHANCE = Style("chance", "k/D", "s-random", "cross")


def render_diff(values: DiffJson) -> str:
    """The page as one HTML file that loads nothing else; the same data gives the same bytes."""
    sections = [_verdict(values), _parts(values)]
    if values["anchor"] is not None:
        sections.append(_text_space(values))
    sections += [_tensors(values), _record(values)]
    byline = [f"base: {values['base']}", f"tuned: {values['tuned']}", f"{len(values['tensors'])} tensors"]
    return render_plain("What changed", byline, sections, data_file="diff.json")


def _verdict(values: DiffJson) -> Section:
    first, *others = values["findings"]
    body = render_template(
        "diff_verdict.html", severity=SEVERITIES[first["severity"]], verdict=first["sentence"], others=others
    )
    return Section("verdict", "Verdict", "From the files alone: neither model was run.", body)


def _parts(values: DiffJson) -> Section:
    header = ["Part", "Changed", "Missing", "Update / weight", "Norm ratio", "Rank of updates"]
    rows = [
        [
            PART_TITLES[part["part"]],
            f"{part['num_changed']} of {part['num_tensors']}",
            str(part["num_missing"]),
            _share(part["relative"]),
            _number(part["norm_ratio"]),
            part["ranks"] or ABSENT,
        ]
        for part in values["parts"]
    ]
    lead = (
        "Norms are taken over the tensors that changed. The norm ratio is the one furthest from 1; a rank counts the "
        "singular values of an update above what rounding makes."
    )
    return Section("parts", "Parts", lead, render_tables([Table(header, rows)]))


def _text_space(values: DiffJson) -> Section:
    anchor = values["anchor"]
    chance = [k / anchor["width"] for k in anchor["counts"]]
    shown = [part for part in values["parts"] if part["text_shares"] is not None]
    lines = [Line(style=CHANCE, points=tuple(zip(chance, chance, strict=True)), kind="dashed")]
    for part in shown:
        points = tuple(zip(chance, part["text_shares"], strict=True))
        notes = tuple(f"{PART_TITLES[part['part']]}, top {percent(x)}: {percent(y)}" for x, y in points)
        lines.append(Line(style=LOOKS[part["part"]], points=points, notes=notes, end_label=PART_TITLES[part["part"]]))
    chart = Markup("")
    if shown:
        chart = line_chart(
            lines,
            title="Share of the updates in the top text directions",
            description="Above the dashed line, updates write into the dominant text directions more than by chance.",
            x=Axis(label="share of the directions", kind="share", include=(0.0,)),
            y=Axis(label="share of the update", kind="share", include=(0.0,)),
        )
    header = ["Part", *(f"top {k} of {anchor['width']}" for k in anchor["counts"])]
    rows = [[PART_TITLES[part["part"]], *(percent(share) for share in part["text_shares"])] for part in shown]
    rows.append(["k/D", *(percent(share) for share in chance)])
    lead = (
        "How much of what the linears that write into text space (o_proj, down_proj, the last one of the projector) "
        f"were changed by lies in the top directions of the base's input embedding ({anchor['source']}). Dashed: "
        "k/D, the share of an update that knows nothing of text."
    )
    figure = Markup("<figure>{}</figure>").format(chart) if shown else Markup("")
    tables = render_tables([Table(header, rows)])
    return Section("text-space", "Text space", lead, figure + tables)


def _tensors(values: DiffJson) -> Section:
    header = ["Tensor", "Part", "Status", "Update / weight", "Norm ratio", "Rank", "Stable rank", "Intruders", "Type"]
    changed = [row for row in values["tensors"] if row["relative"]]
    largest = sorted(changed, key=lambda row: row["relative"], reverse=True)[:NUM_LARGEST]
    shown = [Table(header, [_tensor(row) for row in largest], "Largest updates")] if largest else []
    every = Table(header, [_tensor(row) for row in values["tensors"]], f"All {len(values['tensors'])} tensors")
    lead = (
        "Intruders are leading singular directions of the tuned weight that the base does not have (arXiv 2410.21228); "
        "they are counted where the smaller side is at most 1024."
    )
    return Section("tensors", "Tensors", lead, render_tables(shown, folded=[every]))


def _tensor(row: dict[str, Any]) -> list[str]:
    rank = ABSENT if row["rank"] is None else f"{'>' if row['is_rank_larger'] else ''}{row['rank']}"
    types = [name for name in (row["base_dtype"], row["tuned_dtype"]) if name]
    return [
        row["name"],
        PART_TITLES[row["part"]],
        row["status"] if not row["num_bad"] else "not finite",
        _share(row["relative"]),
        _number(row["norm_ratio"]),
        rank,
        _number(row["stable_rank"]),
        ABSENT if row["intruders"] is None else str(row["intruders"]),
        " to ".join(dict.fromkeys(types)),
    ]


def _record(values: DiffJson) -> Section:
    cost = values["record"]["cost"]
    rows = [["seconds", duration(cost["seconds"])]]
    if "peak_memory_mb" in cost:
        rows.append(["peak memory of the process", f"{cost['peak_memory_mb']:,.0f} MiB"])
    rows += [["options", ", ".join(f"{key} {value}" for key, value in values["record"]["options"].items() if value)]]
    rows += [[name, version] for name, version in values["record"]["versions"].items()]
    rows.append(["commit", values["record"]["commit"] or ABSENT])
    note = "; ".join(values["notes"])
    lead = "How this was made."
    return Section("record", "Record", lead, render_tables([Table(["What", "Value"], rows)], note=note))


def _share(value: float | None) -> str:
    return ABSENT if value is None else percent(value) if value >= 0.001 or value == 0 else compact(value)


def _number(value: float | None) -> str:
    return ABSENT if value is None else fixed(value, 3)
