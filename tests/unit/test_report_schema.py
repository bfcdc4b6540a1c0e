"""What report.json must hold: each wrong place is named by its key path."""

from typing import Any

import pytest

from helpers.report_fixture import make_report
from textanchor.errors import DataError
from textanchor.report.check import Named, Nullable, OneOf, is_count, is_number, is_png, is_share, is_text, problems
from textanchor.report.document import has_data
from textanchor.report.documents import REPORT

REMOVED = object()


def with_change(path: str, value: Any) -> dict[str, Any]:
    report = make_report()
    *parents, last = path.split("/")
    node: Any = report
    for key in parents:
        node = node[int(key) if key.isdigit() else key]
    if value is REMOVED:
        del node[last]
    else:
        node[last] = value
    return report


def test_the_fixture_is_sound() -> None:
    report = make_report()
    assert REPORT.check(report, source="fixture") is report


@pytest.mark.parametrize(
    "path",
    [
        "title",
        "new_task",
        "headline/better",
        "before/tasks",
        "before/tasks/words",
        "before/tasks/words/accuracy",
        "before/tasks/count/gold_nats",
        "before/tasks/shape/accuracy/low",
        "before/pope/yes_ratio",
        "after/app/scores",
        "after/app/scores/tasks/shape",
        "after/full/audit/reload_max_difference",
        "matched/level",
        "matched/reached/app",
        "matched/at_level/full",
        "geometry/ks",
        "samples/3/gold",
        "samples/3/app",
        "after/app/drift/2/parts/projector/free",
    ],
)
def test_a_missing_key_is_named(path: str) -> None:
    told = "".join(f"[{key}]" if key.isdigit() else f".{key}" for key in path.split("/")).lstrip(".")
    with pytest.raises(DataError) as caught:
        REPORT.check(with_change(path, REMOVED), source="runs/report.json")
    assert f"key `{told}` is missing" in str(caught.value)
    assert str(caught.value).startswith("runs/report.json ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("before/tasks/words/accuracy/estimate", 13.5, "between 0 and 1 (not per cent)"),
        ("before/tasks/words/num_items", 2.5, "a whole number"),
        ("before/pope/accuracy", "high", "`before.pope.accuracy` is 'high'"),
        ("before/pope/accuracy", {"estimate": 0.5, "low": 0.4}, "key `before.pope.accuracy.high` is missing"),
        ("after/app/seconds", float("nan"), "`after.app.seconds` is nan, expected a finite number"),
        ("after/app/seconds", 10**400, "is a whole number of more than 300 digits, expected a finite number"),
        ("before/tasks/words/gold_nats/high", 1e300, "is 1e+300, expected a finite number of at most 1e+15"),
        ("model/parameters", 10**400, "expected a whole number of at least 0 and at most 1e+15"),
        ("before/tasks/words/num_items", -(10**400), "expected a whole number of at least 0"),
        ("before/tasks/words/accuracy/estimate", 10**400, "between 0 and 1 (not per cent)"),
        ("after/app/curve", {}, "expected a list"),
        ("after", {}, "`after` has 0 entries"),
        ("headline/better", "lora", "expected one of full, app, neither"),
        ("geometry/random", [0.5], "`geometry.random` has 1 values, expected 10"),
        ("samples/0/image_png_base64", "R0lGODlh", "expected a PNG file in base64"),
        ("samples/0/image_png_base64", 'x" onerror="', "expected a PNG file in base64"),
        ("old_tasks", ["existence", "flags"], "key `before.tasks.flags` is missing"),
        ("title", None, "`title` is None, expected a string"),
    ],
)
def test_a_wrong_value_is_named(path: str, value: Any, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        REPORT.check(with_change(path, value), source="report.json")
    assert expected in str(caught.value)


def test_many_problems_are_told_shortly() -> None:
    report = make_report()
    report["before"]["tasks"] = {task: {} for task in report["before"]["tasks"]}
    with pytest.raises(DataError, match=r"and 7 more\."):
        REPORT.check(report, source="report.json")


@pytest.mark.parametrize(
    ("value", "shape", "sound"),
    [
        (True, is_number, False),
        (True, is_count, False),
        (-1, is_count, False),
        (1.0000001, is_share, True),
        (1.01, is_share, False),
        (float("inf"), is_number, False),
        (None, Nullable(is_text), True),
        (1, Nullable(is_text), False),
        ({"a": 1, "b": 2}, Named(is_number), True),
        ({"a": 1, "b": "2"}, Named(is_number), False),
        ([1, "2"], [is_number], False),
        ("1", OneOf(is_number, is_text), True),
        ([], OneOf(is_number, is_text), False),
        ({"b": 1}, {"a?": is_number}, True),
        ({"a": "1"}, {"a?": is_number}, False),
        ("iVBORw0KGgo=", is_png, True),
    ],
)
def test_shapes(value: Any, shape: Any, sound: bool) -> None:
    assert (list(problems(value, shape)) == []) == sound


@pytest.mark.parametrize(
    ("path", "present"),
    [("a", True), ("b", False), ("c", False), ("d.*.x", True), ("d.*.y", False), ("d.q.x", False), ("none", False)],
)
def test_has_data(path: str, present: bool) -> None:
    assert has_data({"a": 0, "b": [], "c": None, "d": {"p": {"x": [1]}, "q": {"y": {}}}}, path) == present
