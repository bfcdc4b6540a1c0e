"""Step zero as tables in Markdown, from its records alone."""

from collections.abc import Sequence

from textanchor.records import RunRecord
from textanchor.report.numbers import ABSENT, fixed, percent, signed
from textanchor.report.step_zero.draws import Kept, UpdateDraws, over_updates
from textanchor.report.step_zero.effects import BASE, TUNED, Effect, decisions, effect, extents
from textanchor.report.step_zero.spectrum import spectrum_rows
from textanchor.stats import Interval

STAGES = {"ablation": "projector", "lora": "language model"}


def step_zero_tables(records: Sequence[RunRecord]) -> list[str]:
    """Tables with their headings, model by model: overlap, spectrum, updates, removals, oracle, decisions."""
    tables: list[str] = []
    for model in dict.fromkeys(record.extra["model"] for record in records):
        own = [record for record in records if record.extra["model"] == model]
        by_stage = {stage: [r for r in own if r.extra["stage"] == stage] for stage in ("overlap", "spectrum", *STAGES)}
        tables += [_overlap(model, record) for record in by_stage["overlap"]]
        tables += [_spectrum(model, record) for record in by_stage["spectrum"]]
        for stage, part in STAGES.items():
            updates = [UpdateDraws(record) for record in by_stage[stage]]
            if updates:
                tables += _of_updates(f"{model}, updates of the {part}", updates, has_text=stage == "lora")
    return tables


def _of_updates(title: str, updates: Sequence[UpdateDraws], *, has_text: bool) -> list[str]:
    tables = [_ends(title, updates, has_text)]
    tables += [_effects(title, updates, "removal", "removed share", has_text)]
    if any(key[0] == "oracle" for update in updates for key in update.conditions):
        tables += [_effects(title, updates, "oracle", "directions or their fraction", has_text)]
    tables += [_decisions(f"{title}: decisions", updates, "retained")]
    return tables + ([_decisions(f"{title}: decisions on plain text", updates, "text")] if has_text else [])


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A heading and a table."""
    lines = [f"### {title}", "", _line(header), _line(["---"] * len(header)), *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def nats(interval: Interval | None) -> str:
    """A difference in nats with its interval."""
    if interval is None:
        return ABSENT
    return f"{signed(interval.estimate, 3)} [{signed(interval.low, 3)}, {signed(interval.high, 3)}]"


def _overlap(model: str, record: RunRecord) -> str:
    rows = [
        [
            pair["first"],
            pair["second"],
            str(count["num_directions"]),
            fixed(count["chance"], 3),
            _share(count["overlap"]),
            _share(count["energy"]),
        ]
        for pair in record.extra["conditions"]
        for count in pair["counts"]
    ]
    header = ["directions of", "against", "k", "chance k/D", "overlap of the top k", "energy in the first's top k"]
    return table(f"{model}: overlap of leading directions", header, rows)


def _share(value: dict[str, float]) -> str:
    return f"{fixed(value['estimate'], 3)} [{fixed(value['low'], 3)}, {fixed(value['high'], 3)}]"


def _spectrum(model: str, record: RunRecord) -> str:
    rows = [
        [row.band, f"{row.energy:g}", str(row.num_directions), nats(row.change), nats(row.against_random)]
        for row in spectrum_rows(record)
    ]
    header = ["band", "relative energy", "directions", "retained tasks, nats", "against random"]
    return table(f"{model}: sensitivity of the projector's outputs", header, rows)


def _ends(title: str, updates: Sequence[UpdateDraws], has_text: bool) -> str:
    rows = []
    for update in updates:
        ends = (("base", 0.0) if ("base", 0.0) in update.conditions else BASE, TUNED)
        cells = [f"{update.task}, seed {update.record.seed}"]
        for value in (update.new, update.old):
            cells += [f"{fixed(value(key)[0], 3)} ({percent(value(key, 'correct')[0])})" for key in ends]
        if has_text:
            cells += [fixed(update.text(key)[0], 3) for key in ends]
        else:
            drift = update.record.extra.get("drift_energy")  # the first records do not have it
            cells.append(ABSENT if drift is None else fixed(drift, 3))
        rows.append(cells)
    header = ["update", "new before", "new after", "retained before", "retained after"]
    header += ["text before", "text after"] if has_text else ["energy of the drift"]
    return table(f"{title}: before and after, nats (accuracy)", header, rows)


def _effects(title: str, updates: Sequence[UpdateDraws], kind: str, extent: str, has_text: bool) -> str:
    rows = []
    for band, amount in extents(updates, kind):
        found = effect(updates, kind, band, amount)
        row = _effect_row(found)
        if has_text:
            row.append(nats(over_updates(updates, lambda u, k=(kind, band, amount): u.text(k) - u.text(TUNED))))
        rows.append(row)
    header = ["band", extent, "updates", "directions", "new: lost", "retained: regained", "accuracy new, retained"]
    header += ["lost, less random's", "regained, less random's", "beyond WiSE-FT", "beyond WiSE-FT, less random's"]
    header += ["text"] if has_text else []
    return table(f"{title}: {kind}", header, rows)


def _effect_row(found: Effect) -> list[str]:
    on_front = "" if found.num_on_front == found.num_updates else f" ({found.num_on_front} updates)"
    return [
        found.band,
        f"{found.extent:g}",
        str(found.num_updates),
        ABSENT if found.num_directions is None else fixed(found.num_directions, 0),
        nats(found.lost),
        nats(found.regained),
        f"{percent(found.new_accuracy)}, {percent(found.old_accuracy)}",
        nats(found.lost_against_random),
        nats(found.regained_against_random),
        nats(found.beyond_front) + on_front,
        nats(found.beyond_random),
    ]


def _decisions(title: str, updates: Sequence[UpdateDraws], what: Kept) -> str:
    rows = []
    for found in decisions(updates, what):
        so = {"yes": "goes on", "no": "stops"}.get(found.beats_random, found.beats_random)
        random, front = nats(found.against_random), nats(found.beyond_front)
        rows.append([found.band, random, found.beats_random, front, found.beats_front, so])
    header = ["form", "beyond WiSE-FT, less random's", "beats random?", "beyond WiSE-FT", "beats WiSE-FT?", "so it"]
    return table(title, header, rows)
