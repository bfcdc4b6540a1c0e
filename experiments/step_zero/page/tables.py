"""Step zero as tables, from its records alone: stage by stage, each table with a sentence on how it is read."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from page.draws import Kept, UpdateDraws, over_updates
from page.effects import (
    BASE,
    LEAST_LEARNED,
    SMALLEST_EFFECT,
    TUNED,
    Effect,
    decisions,
    effect,
    extents,
    learners,
    text_effects,
)
from page.spectrum import spectrum_rows
from textanchor.records import RunRecord
from textanchor.report.numbers import ABSENT, NO_BREAK_SPACE, fixed, percent, signed
from textanchor.stats import Interval
from textanchor.tables import Table

UPDATES = {"ablation": "projector", "lora": "language model"}
"""Stage -> the part of the model whose update it takes bands out of."""


@dataclass(frozen=True)
class StageTables:
    """The tables of one stage of one model, and what its figures are drawn from."""

    model: str
    stage: str
    """"overlap", "spectrum" or a key of UPDATES."""
    title: str
    tables: Sequence[Table]
    records: Sequence[RunRecord]
    updates: Sequence[UpdateDraws] = field(default=())


def step_zero_tables(stages: Sequence[StageTables]) -> list[Table]:
    """All tables, under titles that name the model and the stage."""
    return [
        replace(table, title=f"{stage.model}, {stage.title}: {table.title}")
        for stage in stages
        for table in stage.tables
    ]


def step_zero_stages(records: Sequence[RunRecord]) -> list[StageTables]:
    """Model by model: overlap, spectrum, updates of the projector, updates of the language model; those there are."""
    return [
        _stage(model, stage, found)
        for model in dict.fromkeys(record.extra["model"] for record in records)
        for stage in ("overlap", "spectrum", *UPDATES)
        if (found := [r for r in records if (r.extra["model"], r.extra["stage"]) == (model, stage)])
    ]


def _stage(model: str, stage: str, records: Sequence[RunRecord]) -> StageTables:
    if stage in UPDATES:
        updates = [UpdateDraws(record) for record in records]
        tables = _of_updates(updates, has_text=stage == "lora")
        return StageTables(model, stage, f"updates of the {UPDATES[stage]}", tables, records, updates)
    title, table_of = {
        "overlap": ("overlap of text with sensitivity", _overlap),
        "spectrum": ("sensitivity of the projector's outputs", _spectrum),
    }[stage]
    return StageTables(model, stage, title, [table_of(record) for record in records], records)


def _of_updates(updates: Sequence[UpdateDraws], *, has_text: bool) -> list[Table]:
    tables = [_ends(updates, has_text)] + ([_text(updates)] if has_text else [])
    updates = learners(updates)
    if not updates:
        return tables
    tables += [_decisions("decisions", updates, "retained")]
    tables += [_decisions("decisions on plain text", updates, "text")] if has_text else []
    for kind in EXTENT:
        effects = [effect(updates, kind, band, amount) for band, amount in extents(updates, kind)]
        if effects:
            tables += [_effects(kind, effects, updates if has_text else ()), _compared(kind, effects)]
    return tables


def nats(interval: Interval | None) -> str:
    """A difference in nats with its interval, which is never torn apart."""
    if interval is None:
        return ABSENT
    return f"{signed(interval.estimate, 3)} {_within(signed(interval.low, 3), signed(interval.high, 3))}"


def _share(value: dict[str, float]) -> str:
    return f"{fixed(value['estimate'], 3)} {_within(fixed(value['low'], 3), fixed(value['high'], 3))}"


def _within(low: str, high: str) -> str:
    return f"[{low},{NO_BREAK_SPACE}{high}]"


def _overlap(record: RunRecord) -> Table:
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
    header = ["Directions of", "Against", "k", "Chance, k / D", "Overlap of the top k [95 %]", "Energy [95 %]"]
    note = (
        "Overlap is 1 where the leading k directions of both span the same space and k / D where they know nothing of "
        "each other; energy is the share of the second's energy that lies in the first's top k, by chance k / D too."
    )
    return Table(header, rows, "leading directions", note)


def _spectrum(record: RunRecord) -> Table:
    rows = [
        [row.band, f"{row.energy:g}", str(row.num_directions), nats(row.change), nats(row.against_random)]
        for row in spectrum_rows(record)
    ]
    header = ["Band", "Added energy", "Directions", "Retained, nats more [95 %]", "The same, less random's"]
    note = (
        "How much the right answer's cross-entropy on the retained tasks rises when the projector writes at random "
        "into a band; the added energy is relative to that of the projector's output, and above zero is worse."
    )
    return Table(header, rows, "random writing into bands", note)


def _ends(updates: Sequence[UpdateDraws], has_text: bool) -> Table:
    rows = []
    for update in updates:
        ends = (("base", 0.0) if ("base", 0.0) in update.conditions else BASE, TUNED)
        is_told = "guess_nats" in update.record.extra
        cells = [f"{update.task}, seed {update.record.seed}", fixed(update.learned(TUNED)[0], 3) if is_told else ABSENT]
        for value in (update.new, update.old):
            cells += [f"{fixed(value(key)[0], 3)} ({percent(value(key, 'correct')[0])})" for key in ends]
        if has_text:
            cells += [fixed(update.text(key)[0], 3) for key in ends]
        else:
            drift = update.record.extra.get("drift_energy")  # the first records do not have it
            cells.append(ABSENT if drift is None else fixed(drift, 3))
        rows.append(cells)
    header = ["Update", "Learned", "New, before", "New, after", "Retained, before", "Retained, after"]
    header += ["Text, before", "Text, after"] if has_text else ["Energy of the drift"]
    note = "Cross-entropy of the right answer in nats per item (accuracy) of the base and of the tuned model" + (
        "; text in nats per token. "
        if has_text
        else "; the drift's energy is relative to that of the base projector's output. "
    )
    note += (
        "Learned is by how many nats the answers beat an even guess among the choices; an update below "
        f"{LEAST_LEARNED:g} has not learned its task and is left out of what follows."
    )
    return Table(header, rows, "before and after", note)


def _text(updates: Sequence[UpdateDraws]) -> Table:
    rows = [
        [found.band, f"{found.extent:g}", nats(found.more), nats(found.against_random)]
        for found in text_effects(updates, "removal")
    ]
    tuned = over_updates(updates, lambda update: update.text(TUNED) - update.text(BASE))
    note = (
        "Nats per token of plain text more than the base's, with each band taken out of the update until the given "
        f"share of its energy is gone; with nothing taken out {nats(tuned)}. All updates, whatever they learned."
    )
    return Table(
        ["Band", "Removed share", "Text, nats more [95 %]", "The same, less random's"], rows, "plain text", note
    )


EXTENT = {"removal": "Removed share", "oracle": "Directions or fraction"}
WHAT = {
    "removal": "Each band taken out of the update until the given share of its energy is gone",
    "oracle": "On the given number of leading directions (or fraction, at the inputs) the base's projector is put back",
}


def _effects(kind: str, effects: Sequence[Effect], with_text: Sequence[UpdateDraws]) -> Table:
    rows = []
    for found in effects:
        directions = ABSENT if found.num_directions is None else fixed(found.num_directions, 0)
        row = [found.band, f"{found.extent:g}", str(found.num_updates), directions]
        row += [nats(found.lost), nats(found.regained)]
        row += [percent(found.new_accuracy), percent(found.old_accuracy)]
        if with_text:
            key = (kind, found.band, found.extent)
            row.append(nats(over_updates(with_text, lambda update, key=key: update.text(key) - update.text(TUNED))))
        rows.append(row)
    header = [
        "Band",
        EXTENT[kind],
        "Updates",
        "Directions",
        "Learned, nats lost [95 %]",
        "Retained, nats regained [95 %]",
    ]
    header += ["New, accuracy", "Retained, accuracy"] + (["Text, nats per token more"] if with_text else [])
    note = (
        f"{WHAT[kind]}: what that costs the new task and gives back to the retained ones, against the tuned model; "
        "little lost and much regained is good."
    )
    return Table(header, rows, kind, note)


def _compared(kind: str, effects: Sequence[Effect]) -> Table:
    header = ["Band", EXTENT[kind], "Lost, less random's", "Regained, less random's", "Beyond WiSE-FT"]
    header += ["Beyond WiSE-FT, less random's"]
    note = (
        "Nats [95 %] against random directions of the same extent, and beyond what WiSE-FT keeps at the same learning "
        "(in brackets the updates whose front reaches it, where not all do): above zero is more lost, regained or kept."
    )
    return Table(
        header, [_compared_row(found) for found in effects], f"{kind} against random directions and WiSE-FT", note
    )


def _compared_row(found: Effect) -> list[str]:
    some = "" if found.num_on_front in (0, found.num_updates) else f" ({found.num_on_front}{NO_BREAK_SPACE}updates)"
    against_random = map(nats, (found.lost_against_random, found.regained_against_random))
    front = nats(found.beyond_front) + some
    return [found.band, f"{found.extent:g}", *against_random, front, nats(found.beyond_random)]


def _decisions(title: str, updates: Sequence[UpdateDraws], what: Kept) -> Table:
    rows = []
    for found in decisions(updates, what):
        so = {"yes": "goes on", "no": "stops"}.get(found.beats_random, found.beats_random)
        random, front = nats(found.against_random), nats(found.beyond_front)
        rows.append([found.band, random, found.beats_random, front, found.beats_front, so])
    header = ["Form", "Beyond WiSE-FT, less random's", "Beats random?", "Beyond WiSE-FT", "Beats WiSE-FT?", "So it"]
    unit = "nats per item" if what == "retained" else "nats per token"
    note = (
        f"Over all shares of a band, in {unit} [95 %]: yes where the interval lies above zero, no where it lies below "
        f"{SMALLEST_EFFECT[what]:g}, else undecided; only what beats random directions goes on."
    )
    return Table(header, rows, title, note)
