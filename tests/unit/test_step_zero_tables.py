"""Tables of step zero: effects that are known by construction, and no value where WiSE-FT's front does not reach."""

from typing import Any

import numpy as np
import pytest

from textanchor.records import RunRecord
from textanchor.report.numbers import ABSENT
from textanchor.report.step_zero import pack, step_zero_tables
from textanchor.report.step_zero.draws import NUM_DRAWS, UpdateDraws, key_of, over_updates, weights_of
from textanchor.report.step_zero.effects import decisions, effect, verdict
from textanchor.report.step_zero.rows import unpack
from textanchor.report.step_zero.spectrum import spectrum_rows
from textanchor.stats import Interval

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


def test_values_come_back() -> None:
    rows = {"shape": {"gold_nats": [0.12345678, 12.0, 1e-7], "correct": [1.0, 0.0, 1.0]}}
    packed = pack({"kind": "x", "rows": rows})
    assert packed["rows"]["shape"]["correct"] == "1 0 1"
    assert unpack(packed["rows"])["shape"]["gold_nats"] == [0.1235, 12.0, 0.0]
    assert pack({"first": "a"}) == {"first": "a"}


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


def test_the_spectrum_is_paired_with_the_unperturbed_model() -> None:
    conditions = [{"band": "none", "energy": 0.0, "draw": 0, "rows": rows_of(0, 0.5)}]
    for draw, (top, random) in enumerate(((0.9, 0.6), (1.1, 0.8))):
        for band, old in (("text_top", top), ("random", random)):
            facts = {"band": band, "energy": 0.1, "draw": draw, "num_directions": 64, "constant_share": 0.2}
            conditions.append(facts | {"rows": rows_of(0, old)})
    extra = {"stage": "spectrum", "model": "m", "retained": ["shape", "color"]}
    record = RunRecord(name="s", method="none", seed=0, extra=extra | {"conditions": [pack(c) for c in conditions]})
    top, random = spectrum_rows(record)
    assert (top.band, random.band, random.against_random) == ("text_top", "random", None)
    assert top.change.estimate == pytest.approx(0.5, abs=1e-3) and top.against_random is not None
    assert top.against_random.estimate == pytest.approx(0.3, abs=1e-3)
    assert top.change.low == pytest.approx(0.4, abs=1e-3) and top.change.high == pytest.approx(0.6, abs=1e-3)
    (text,) = step_zero_tables([record])
    assert "| text_top | 0.1 | 64 | +0.500" in text


def test_a_record_without_the_energy_of_its_drift_is_read() -> None:
    record = update()
    del record.extra["drift_energy"]
    assert step_zero_tables([record])[0].endswith(f"| {ABSENT} |")


def test_tables_of_an_update() -> None:
    tables = step_zero_tables([update(text_top=(2.0, 0.3), random__0=(2.0, 0.5))])
    titles = [text.splitlines()[0] for text in tables]
    assert [title.rpartition(": ")[2] for title in titles] == [
        "before and after, nats (accuracy)",
        "removal",
        "decisions",
    ]
    assert all(title.startswith("### m, updates of the projector") for title in titles)
    assert "| text_top |" in tables[-1] and "goes on" in tables[-1] and "random" not in tables[-1].splitlines()[4]
    for text in tables:
        lines = text.splitlines()[2:]
        assert len({line.count("|") for line in lines}) == 1
