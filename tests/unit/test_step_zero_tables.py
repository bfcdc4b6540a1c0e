"""Tables of step zero: effects that are known by construction, and no value where WiSE-FT's front does not reach."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_evidence import PAGE, TABLES, evidence
from page import pack, step_zero_stages, step_zero_tables
from page.draws import NUM_DRAWS, UpdateDraws, key_of, over_updates, weights_of
from page.effects import decisions, effect, verdict
from page.rows import unpack
from page.sections import step_zero_sections
from page.spectrum import spectrum_rows

from helpers.html_reading import of_tag, read_html
from textanchor.records import RunRecord
from textanchor.report.numbers import ABSENT
from textanchor.stats import Interval
from textanchor.tables import Table, markdown_tables

NUM_ITEMS = 12


def rows_of(new: float, old: float, *, seed: int = 0, task: str = "digits") -> dict[str, Any]:
    """Items that spread around their mean in the same way under every condition."""
    spread_N = np.random.default_rng(seed).normal(size=NUM_ITEMS) * 0.1
    spread_N -= spread_N.mean()
    suites = {"shape": old - 0.1, "color": old + 0.1, task: new}
    return {
        name: {"gold_nats": (mean + spread_N).tolist(), "correct": [1.0] * 6 + [0.0] * 6}
        for name, mean in suites.items()
    }


def update(seed: int = 0, **removals: tuple[float, float]) -> RunRecord:
    """A front that pays .5 old nats for each new nat learned, from (3, 0) to (1, 1), and removals (new, old)."""
    conditions = [{"kind": "wise", "alpha": alpha, "rows": rows_of(3 - 2 * alpha, alpha)} for alpha in (0.0, 0.5, 1.0)]
    for name, (new, old) in removals.items():
        conditions.append(
            {"kind": "removal", "band": name.replace("__", ":"), "share": 0.5, "num_directions": 7}
            | {"removed": 0.5, "rows": rows_of(new, old)}
        )
    extra = {"stage": "ablation", "model": "m", "retained": ["shape", "color"], "task": "digits", "drift_energy": 0.3}
    packed = [pack(condition) for condition in conditions]
    return RunRecord(name="r", method="full", seed=seed, extra=extra | {"conditions": packed})


def tables_of(records: list[RunRecord]) -> list[Table]:
    return step_zero_tables(step_zero_stages(records))


def test_values_come_back() -> None:
    rows = {"shape": {"gold_nats": [0.12345678, 12.0, 1e-7], "correct": [1.0, 0.0, 1.0]}}
    packed = pack({"kind": "x", "rows": rows})
    assert packed["rows"]["shape"]["correct"] == "1 0 1"
    assert unpack(packed["rows"])["shape"]["gold_nats"] == [0.1235, 12.0, 0.0]
    assert pack({"first": "a"}) == {"first": "a"}


def test_what_is_learned_is_what_is_known_beyond_a_guess() -> None:
    conditions = [
        {"kind": "wise", "alpha": alpha, "rows": rows_of(9.0 - 8.0 * alpha, alpha)} for alpha in (0.0, 0.5, 1.0)
    ]
    for condition, choice in zip(conditions, (4.0, 2.0, 0.5), strict=True):
        condition["rows"]["digits"]["choice_nats"] = [choice] * NUM_ITEMS
    extra = {"retained": ["shape", "color"], "task": "digits", "conditions": [pack(c) for c in conditions]}
    found = UpdateDraws(RunRecord(name="r", method="full", seed=0, extra=extra | {"guess_nats": 2.5}))
    assert [float(found.learned(key)[0]) for key in found.front] == [0.0, 0.5, 2.0]
    without = UpdateDraws(RunRecord(name="r", method="full", seed=0, extra=extra))
    assert [float(without.learned(key)[0]) for key in without.front] == pytest.approx([-9.0, -5.0, -1.0], abs=1e-4)


def test_an_update_that_learned_nothing_is_shown_and_left_out() -> None:
    def tuned_to(choice: float, seed: int) -> RunRecord:
        record = update(seed, text_top=(2.0, 0.3), random__0=(2.0, 0.6))
        for condition in record.extra["conditions"]:
            nats = {("wise", 0.0): 4.0}.get((condition["kind"], condition.get("alpha")), choice)
            condition["rows"]["digits"]["choice_nats"] = " ".join([str(nats)] * NUM_ITEMS)
        return RunRecord(name="r", method="full", seed=seed, extra=record.extra | {"guess_nats": 2.3})

    ends, *others = tables_of([tuned_to(1.0, 0), tuned_to(2.25, 1)])
    assert [row[1] for row in ends.rows] == ["1.300", "0.050"]
    effects = next(table for table in others if table.title.endswith("removal"))
    assert {row[2] for row in effects.rows} == {"1"}
    assert len(tables_of([tuned_to(2.25, 1)])) == 1


def test_text_is_told_of_updates_that_learned_nothing() -> None:
    """Text costs 3 nats a token, 4 after tuning; the band gives all of it back and random directions half."""
    record = update(0, inputs_top=(2.0, 0.3), inputs_random__0=(2.0, 0.6))
    nats = {("wise", 0.0): 30.0, ("wise", 0.5): 34.0, ("wise", 1.0): 40.0, "inputs_top": 30.0, "inputs_random:0": 35.0}
    for condition in record.extra["conditions"]:
        text = nats[condition.get("band") or (condition["kind"], condition["alpha"])]
        condition["rows"] |= {"text": {"nats": " ".join([str(text)] * 4), "num_tokens": "10 10 10 10"}}
        condition["rows"]["digits"]["choice_nats"] = " ".join(["4"] * NUM_ITEMS)
    extra = record.extra | {"stage": "lora", "guess_nats": 2.3}
    ends, text = tables_of([RunRecord(name="r", method="full", seed=0, extra=extra)])
    assert ends.rows[0][1] == "0.000"
    assert text.title.endswith("plain text")
    assert [row[2].split()[0] for row in text.rows] == ["0.000", "+0.500"]
    assert [row[3].split()[0] for row in text.rows] == ["\u22120.500", ABSENT]
    assert "+1.000" in text.note


def test_what_is_beyond_the_front() -> None:
    records = [update(seed, text_top=(2.0, 0.3), on_front=(1.5, 0.75), random__0=(2.0, 0.6), random__1=(2.0, 0.5))
               for seed in range(3)]  # fmt: skip
    updates = [UpdateDraws(record) for record in records]
    found = effect(updates, "removal", "text_top", 0.5)
    assert found.lost.estimate == pytest.approx(1.0, abs=1e-3)
    assert found.regained.estimate == pytest.approx(0.7, abs=1e-3)
    assert found.beyond_front is not None and found.beyond_random is not None
    assert found.beyond_front.estimate == pytest.approx(0.2, abs=1e-3)
    assert found.beyond_random.estimate == pytest.approx(0.2 - (-0.1 + 0) / 2, abs=1e-3)
    assert found.regained_against_random is not None and found.lost_against_random is not None
    assert found.regained_against_random.estimate == pytest.approx(0.25, abs=1e-3)
    assert found.lost_against_random.estimate == pytest.approx(0, abs=1e-3)
    assert (found.num_updates, found.num_on_front, found.num_directions) == (3, 3, 7)
    assert found.new_accuracy == 0.5
    on_front = effect(updates, "removal", "on_front", 0.5).beyond_front
    assert on_front is not None and on_front.estimate == pytest.approx(0, abs=1e-3)
    by_name = {decision.band: decision for decision in decisions(updates)}
    assert set(by_name) == {"text_top", "on_front"}
    assert by_name["text_top"].beats_random == by_name["text_top"].beats_front == "yes"
    assert by_name["on_front"].beats_front == "no"


@pytest.mark.parametrize("new", [0.8, 3.2], ids=["learned more than the tuned model", "less than the base"])
def test_nothing_is_extrapolated(new: float) -> None:
    found = effect([UpdateDraws(update(text_top=(new, 0.0), random__0=(2.0, 0.5)))], "removal", "text_top", 0.5)
    assert found.beyond_front is None and found.num_on_front == 0
    assert found.regained.estimate == pytest.approx(1.0, abs=1e-3)


def test_updates_without_a_value_are_left_out() -> None:
    records = [update(text_top=(2.0, 0.3)), update(1, text_top=(0.5, 0.0))]
    found = effect([UpdateDraws(record) for record in records], "removal", "text_top", 0.5)
    assert found.num_updates == 2 and found.num_on_front == 1
    assert found.beyond_front is not None and found.beyond_front.estimate == pytest.approx(0.2, abs=1e-3)
    assert found.beyond_random is None


def test_updates_are_blocks() -> None:
    apart = [UpdateDraws(update(i, text_top=(2.0, old))) for i, old in enumerate((0.1, 0.5, 0.9))]
    alike = [UpdateDraws(update(i, text_top=(2.0, 0.5))) for i in range(3)]
    key = ("removal", "text_top", 0.5)
    widths = []
    for updates in (apart, alike):
        interval = over_updates(updates, lambda one: one.beyond_front(key))
        assert interval is not None
        widths.append(interval.high - interval.low)
    assert widths[0] > 0.3 > 3 * widths[1]


def test_the_same_items_are_drawn_for_the_same_suite() -> None:
    weights_BN = weights_of("shape", NUM_ITEMS)
    assert weights_BN.shape == (NUM_DRAWS + 1, NUM_ITEMS)
    np.testing.assert_allclose(weights_BN.sum(axis=1), 1)
    assert weights_of("shape", NUM_ITEMS) is weights_BN
    assert not np.array_equal(weights_of("color", NUM_ITEMS), weights_BN)


def test_verdicts() -> None:
    intervals = [Interval(0.3, 0.1, 0.5), Interval(0.0, -0.04, 0.04), Interval(0.1, -0.1, 0.3), None]
    assert [verdict(interval, 0.05) for interval in intervals] == ["yes", "no", "undecided", "not measured"]


def test_keys_of_conditions() -> None:
    assert key_of({"kind": "wise", "alpha": 0.5}) == ("wise", 0.5)
    assert key_of({"kind": "base", "alpha": 0.0}) == ("base", 0.0)
    assert key_of({"kind": "oracle", "band": "text_top", "count": 16}) == ("oracle", "text_top", 16)


def number(value: float) -> str:
    return f"{value:.3f}"


def spectrum() -> RunRecord:
    """Two random maps: +.4 and +.6 nats in text_top, +.1 and +.3 in random directions."""
    conditions = [{"band": "none", "energy": 0.0, "draw": 0, "rows": rows_of(0, 0.5)}]
    for draw, (top, random) in enumerate(((0.9, 0.6), (1.1, 0.8))):
        for band, old in (("text_top", top), ("random", random)):
            facts = {"band": band, "energy": 0.1, "draw": draw, "num_directions": 64, "constant_share": 0.2}
            conditions.append(facts | {"rows": rows_of(0, old)})
    extra = {"stage": "spectrum", "model": "m", "retained": ["shape", "color"]}
    return RunRecord(name="s", method="none", seed=0, extra=extra | {"conditions": [pack(c) for c in conditions]})


def test_the_spectrum_is_paired_with_the_unperturbed_model() -> None:
    record = spectrum()
    top, random = spectrum_rows(record)
    assert (top.band, random.band, random.against_random) == ("text_top", "random", None)
    assert top.change.estimate == pytest.approx(0.5, abs=1e-3) and top.against_random is not None
    assert top.against_random.estimate == pytest.approx(0.3, abs=1e-3)
    assert top.change.low == pytest.approx(0.4, abs=1e-3) and top.change.high == pytest.approx(0.6, abs=1e-3)
    (table,) = tables_of([record])
    assert table.rows[0][:3] == ["text_top", "0.1", "64"] and table.rows[0][3].startswith("+0.500 [")


def test_a_record_without_the_energy_of_its_drift_is_read() -> None:
    record = update()
    del record.extra["drift_energy"]
    assert tables_of([record])[0].rows[-1][-1] == ABSENT


def test_tables_of_an_update() -> None:
    tables = tables_of([update(text_top=(2.0, 0.3), random__0=(2.0, 0.5))])
    assert all(table.title.startswith("m, updates of the projector: ") for table in tables)
    by_title = {table.title.rpartition(": ")[2]: table for table in tables}
    assert list(by_title) == [
        "before and after",
        "decisions",
        "removal",
        "removal against random directions and WiSE-FT",
    ]
    (decision,) = by_title["decisions"].rows
    assert decision[0] == "text_top" and decision[-1] == "goes on"
    assert [row[0] for row in by_title["removal"].rows] == ["text_top", "random:0"]
    beyond = by_title["removal against random directions and WiSE-FT"].rows
    assert beyond[0][4].startswith("+0.200 [") and beyond[0][5].startswith("+0.200 [") and beyond[1][5] == ABSENT
    for table in tables:
        assert {len(row) for row in table.rows} == {len(table.header)}
        assert table.note.endswith(".")
    lines = markdown_tables(tables).splitlines()
    assert lines[0] == f"### {tables[0].title}" and lines[2] == tables[0].note
    assert lines[4:6] == [
        "| Update | Learned | New, before | New, after | Retained, before | Retained, after | Energy of the drift |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]


def test_the_page_draws_the_front_and_every_band_of_each_task() -> None:
    records = [update(seed, text_top=(2.0, 0.3), random__0=(2.0, 0.5), random__1=(2.0, 0.6)) for seed in (0, 1)]
    (section,) = step_zero_sections(step_zero_stages(records), prefix="x-")
    assert (section.id, section.title) == ("x-ablation", "m: updates of the projector")
    elements = read_html(section.body)
    assert len([svg for svg in of_tag(elements, "svg") if svg.attributes.get("class") == "chart"]) == 1
    tips = {tip.text for tip in of_tag(elements, "title")}
    assert "text_top, 50.0% removed: learned \u22122.000, kept 0.300 nats" in tips
    assert "WiSE-FT, 0.50 of the way to the tuned model: learned \u22122.000, kept 0.500 nats" in tips
    labels = {label.text for label in of_tag(elements, "text") if label.attributes.get("class") == "end-label"}
    assert labels == {"base", "tuned"}
    (legend,) = (found for found in of_tag(elements, "ul") if found.attributes.get("class") == "legend")
    assert legend.text.split(" ")[-2:] == ["text_top", "random"]


def test_every_model_is_a_part_of_the_evidence(tmp_path: Path) -> None:
    assert "No records" in evidence(tmp_path)[TABLES] and "No records" in evidence(tmp_path)[PAGE]
    for model in ("first", "second"):
        update(text_top=(2.0, 0.3), random__0=(2.0, 0.5)).save(tmp_path / "step_zero" / model / "ablation.json")
    spectrum().save(tmp_path / "step_zero" / "second" / "spectrum.json")
    found = evidence(tmp_path)
    parts = [line for line in found[TABLES].splitlines() if line.startswith("## ")]
    assert parts == ["## Step zero first", "## Step zero second"]
    assert "step_zero/second: 2 records of" in found[TABLES] and "No records" not in found[TABLES]
    sections = [section.attributes["id"] for section in of_tag(read_html(found[PAGE]), "section")]
    assert sections == ["step-zero-first-ablation", "step-zero-second-spectrum", "step-zero-second-ablation"]


def test_the_page_shows_what_random_writing_costs() -> None:
    (section,) = step_zero_sections(step_zero_stages([spectrum()]))
    strips = [svg for svg in of_tag(read_html(section.body), "svg") if svg.attributes.get("class") == "strip"]
    assert [strip.attributes["aria-label"] for strip in strips] == [
        f"{name}: no change {number(0)}; {name} {number(mean)} ({number(mean - 0.1)}\u2013{number(mean + 0.1)})"
        for name, mean in (("text_top", 0.5), ("random", 0.2))
    ]
