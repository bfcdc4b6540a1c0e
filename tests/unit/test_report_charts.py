"""Numbers, verdicts, axes and colors of the report."""

import re
from pathlib import Path

import pytest

import textanchor.report
from helpers.html_reading import of_tag, read_html
from textanchor.report.charts.axes import Axis, fit
from textanchor.report.charts.lines import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Guide, Line, line_chart
from textanchor.report.charts.markers import Style
from textanchor.report.charts.strips import Lane, strip
from textanchor.report.demo.readings import change
from textanchor.report.numbers import NATS, SHARE, Value, compact, count, duration, fixed, moment, percent, signed

APP = Style("app", "APP", "s-app", "disc")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (percent(0.8649), "86.5%"),
        (percent(0.0), "0.0%"),
        (fixed(-0.0004, 3), "0.000"),
        (fixed(-1.5, 1), "\u22121.5"),
        (signed(0.04, 1), "0.0"),
        (signed(0.06, 1), "+0.1"),
        (signed(-0.06, 1), "\u22120.1"),
        (compact(0), "0"),
        (compact(3.14159), "3.14"),
        (compact(-0.0123), "\u22120.0123"),
        (compact(12345.6), "12,346"),
        (compact(9.99e-5), "1.0\u00d710⁻⁴"),
        (compact(2.1e-6), "2.1\u00d710⁻⁶"),
        (compact(3e9), "3.0\u00d710⁹"),
        (count(138_912_000), "138.9\u2009M"),
        (count(1_234), "1,234"),
        (duration(171.3), "2\u2009min 51\u2009s"),
        (duration(59.6), "60\u2009s"),
        (moment("2025-01-31T12:00:00+00:00"), "2025-01-31 12:00 UTC"),
        (moment("yesterday"), "yesterday"),
        (SHARE.interval(Value(0.5, 0.4, 0.6)), "40.0\u201360.0%"),
        (SHARE.interval(Value(0.5)), ""),
    ],
)
def test_numbers_are_written(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.parametrize("kind", ["linear", "log", "share"])
@pytest.mark.parametrize("values", [(5e-324,), (5e-324, 1e-320), (1e-200,), (1e-310, 1e-200), (1e-300, 0.5), (1e15,)])
def test_numbers_of_any_size_are_drawn(kind: str, values: tuple[float, ...]) -> None:
    scale = fit(Axis(label="", kind=kind), [min(value, 1.0) for value in values] if kind == "share" else values)
    assert all(0 <= scale.position(value) <= 1 for value in values)
    assert all(label and "nan" not in label for _, label in scale.ticks())


@pytest.mark.parametrize(
    ("before", "after", "unit", "paired", "verdict"),
    [
        (Value(0.5, 0.4, 0.6), Value(0.8, 0.7, 0.9), SHARE, None, "better"),
        (Value(0.5, 0.4, 0.6), Value(0.2, 0.1, 0.3), SHARE, None, "worse"),
        (Value(0.5, 0.4, 0.6), Value(0.6, 0.5, 0.7), SHARE, None, "unclear"),
        (Value(0.5, 0.4, 0.6), Value(0.6, 0.5, 0.7), SHARE, {"estimate": 0.1, "low": 0.02, "high": 0.2}, "better"),
        (Value(0.5, 0.4, 0.6), Value(0.8, 0.7, 0.9), SHARE, {"estimate": 0.3, "low": -0.1, "high": 0.7}, "unclear"),
        (Value(1.0, 0.9, 1.1), Value(2.0, 1.9, 2.1), NATS, None, "worse"),
        (Value(2.0, 1.9, 2.1), Value(1.0, 0.9, 1.1), NATS, None, "better"),
        (Value(0.5), Value(0.9), SHARE, None, "unjudged"),
    ],
)
def test_a_verdict_needs_an_interval(before: Value, after: Value, unit, paired, verdict: str) -> None:
    found = change(before, after, unit, paired)
    assert found is not None and found.verdict == verdict


def test_arrows_show_the_direction_of_the_number() -> None:
    up, down, same = (change(Value(1.0), Value(x), NATS) for x in (2.0, 0.5, 1.0001))
    assert [(c.arrow, c.text) for c in (up, down, same) if c] == [("▲", "+1.000"), ("▼", "\u22120.500"), ("=", "0.000")]


@pytest.mark.parametrize("kind", ["linear", "share", "log"])
@pytest.mark.parametrize("data", [[0.2, 0.9], [0.5, 0.5], [1e-4, 1.0], [0.97, 0.98]])
def test_axes_show_their_data_and_have_ticks(kind: str, data: list[float]) -> None:
    scale = fit(Axis(label="x", kind=kind), data)
    assert all(scale.low <= x <= scale.high for x in data)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 12
    assert len({label for _, label in ticks}) == len(ticks)
    assert all(scale.low * (1 - 1e-6) <= x <= scale.high * (1 + 1e-6) for x, _ in ticks)


def test_positions_on_axes() -> None:
    linear = fit(Axis(label="x", bounds=(0.0, 4.0)), [])
    assert [linear.position(x) for x in (0, 1, 4, 9, -3)] == [0, 0.25, 1, 1, 0]
    log = fit(Axis(label="x", kind="log"), [1, 100])
    assert log.position(10) == pytest.approx(0.5)
    assert [label for _, label in fit(Axis(label="x", bounds=(0, 1), kind="share"), []).ticks()][-1] == "100%"


def test_points_and_guides_are_drawn_where_their_numbers_are() -> None:
    axis = Axis(label="a", bounds=(0.0, 1.0))
    line = Line(style=APP, points=((0.0, 0.0), (1.0, 1.0)), notes=("first", "second"))
    chart = str(line_chart([line], title="T", description="D", x=axis, y=axis, guides=[Guide("x", 0.5, "half")]))
    elements = read_html(chart)
    path = next(e for e in of_tag(elements, "path") if e.attributes["class"] == "line solid")
    assert path.attributes["d"] == f"M{LEFT}.0 {HEIGHT - BOTTOM}.0L{WIDTH - RIGHT}.0 {TOP}.0"
    guide = next(e for e in of_tag(elements, "line") if e.attributes["class"] == "guide")
    assert float(guide.attributes["x1"] or "") == pytest.approx((LEFT + WIDTH - RIGHT) / 2, abs=0.1)
    assert [e.text for e in of_tag(elements, "title")] == ["T", "first", "second"]


def test_a_strip_places_values_in_per_cent_of_its_width() -> None:
    scale = fit(Axis(label="", kind="share", bounds=(0.0, 1.0)), [])
    drawn = strip(Value(0.8, 0.7, 0.9), [Lane(APP, Value(0.25, 0.2, 0.3))], scale=scale, unit=SHARE, name="count")
    elements = read_html(str(drawn))
    assert elements[0].attributes["aria-label"] == "count: before 80.0% (70.0\u201390.0%); APP 25.0% (20.0\u201330.0%)"
    band = next(e for e in of_tag(elements, "rect") if e.attributes["class"] == "band")
    assert (band.attributes["x"], band.attributes["width"]) == ("70.00%", "20.00%")
    move = next(e for e in of_tag(elements, "line") if e.attributes["class"] == "move")
    assert (move.attributes["x1"], move.attributes["x2"]) == ("80.00%", "25.00%")


def luminance(color: str) -> float:
    """Relative luminance of #rrggbb; https://www.w3.org/TR/WCAG21/#dfn-relative-luminance"""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_in_every_color_can_be_read(theme: int) -> None:
    css = (Path(textanchor.report.__file__).parent / "templates" / "style.css").read_text()
    colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", re.findall(r":root \{(.*?)\}", css, re.DOTALL)[theme]))
    inks = ["ink", "muted", "accent", "before", "full", "app", "better", "worse", "text-color"]
    inks += [name for name in colors if name.startswith("other-")]
    for ink in inks:
        for ground in ("paper", "panel", "even-wash" if ink == "muted" else "panel"):
            light, dark = sorted((luminance(colors[ink]), luminance(colors[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)


def test_one_value_that_must_be_shown_still_has_a_range_around_it() -> None:
    scale = fit(Axis(label="", include=(0.0,)), [0.0, 0.0])
    assert scale.low < 0 < scale.high
    assert scale.position(0.0) == 0.5
    assert scale.ticks()
