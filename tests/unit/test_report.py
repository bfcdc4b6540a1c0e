"""The report page: self-contained, complete, escaped, deterministic, and honest about what is absent."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.html_reading import Element, of_tag, read_html
from helpers.report_fixture import make_report
from textanchor.errors import DataError
from textanchor.report import build_report, render_report
from textanchor.report.documents import REPORT

REFERENCES = ("src", "href", "xlink:href", "srcset", "action", "poster", "data", "background", "formaction")


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return make_report()


@pytest.fixture(scope="module")
def html(report: dict[str, Any]) -> str:
    return render_report(report)


@pytest.fixture(scope="module")
def elements(html: str) -> list[Element]:
    return read_html(html)


def outside_references(html: str) -> list[str]:
    found = [url for url in re.findall(r"url\(([^)]*)\)|@import", html)] + re.findall(r"\w+://\S+", html)
    for element in read_html(html):
        targets = [element.attributes.get(name) for name in REFERENCES]
        found += [t for t in targets if t and not t.startswith(("#", "data:image/png;base64,"))]
        if element.tag in ("link", "iframe", "object", "embed", "base"):
            found.append(f"<{element.tag}>")
    return found


def test_nothing_is_loaded_from_elsewhere(html: str) -> None:
    assert outside_references(html) == []


@pytest.mark.parametrize(
    "planted",
    ['<img src="//cdn/x.png">', '<link rel="stylesheet" href="x.css">', "<style>a{background:url(x.png)}</style>"],
)
def test_a_planted_reference_is_seen(planted: str) -> None:
    assert outside_references(planted)


def test_no_script_runs(elements: list[Element]) -> None:
    assert [e.attributes for e in of_tag(elements, "script")] == [{"type": "application/json", "id": "report-data"}]
    assert not [e for e in elements for name in e.attributes if name.startswith("on")]
    policy = next(e for e in of_tag(elements, "meta") if e.attributes.get("http-equiv") == "Content-Security-Policy")
    assert (policy.attributes["content"] or "").startswith("default-src 'none'")


def test_every_page_is_there_and_linked(elements: list[Element]) -> None:
    ids = [e.attributes["id"] for e in elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    assert [e.attributes["id"] for e in of_tag(elements, "section")] == [page.id for page in REPORT.pages]
    links = [e.attributes["href"] for e in of_tag(elements, "a")]
    assert {f"#{page.id}" for page in REPORT.pages} <= set(links) <= {f"#{name}" for name in ids}


def test_charts_and_images_have_words(elements: list[Element]) -> None:
    charts = [e for e in of_tag(elements, "svg") if e.attributes.get("role") == "img"]
    assert len(charts) >= 10
    assert all(e.attributes.get("aria-label") or e.text for e in charts)
    assert all(e.attributes["alt"] for e in of_tag(elements, "img"))


def shown_text(html: str) -> str:
    """All text of the page but its data."""
    elements = read_html(html)
    return " ".join(e.text for tag in ("title", "nav", "main") for e in of_tag(elements, tag)[:1])


def texts_of(value: Any, key: str = "") -> list[str]:
    if isinstance(value, dict):
        return [text for name, item in value.items() for text in texts_of(item, name)]
    if isinstance(value, list):
        return [text for item in value for text in texts_of(item, key)]
    return [value] if isinstance(value, str) and key not in ("image_png_base64", "command", "better") else []


def test_every_string_of_the_data_is_shown(html: str, report: dict[str, Any]) -> None:
    shown = shown_text(html)
    assert [text for text in texts_of(report) if " ".join(text.split()) not in shown] == []
    assert "textanchor demo --out 'runs/demo one' --set seed=0" in shown


def test_the_scoreboard_shows_the_numbers_of_the_data(elements: list[Element], report: dict[str, Any]) -> None:
    table = next(e for e in of_tag(elements, "table") if e.attributes.get("class") == "scoreboard").text
    sets = [report["before"], report["after"]["full"]["scores"], report["after"]["app"]["scores"]]
    for scores in sets:
        for value in (scores["tasks"]["words"]["accuracy"], scores["old_mean"]["accuracy"], scores["pope"]["accuracy"]):
            assert f"{100 * value['estimate']:.1f}%" in table
            assert f"{100 * value['low']:.1f}\u2013{100 * value['high']:.1f}%" in table
        assert f"{scores['old_mean']['gold_nats']['estimate']:.3f}" in table
        assert f"{scores['text']['cross_entropy']['estimate']:.3f}" in table
    old = [scores["old_mean"]["accuracy"]["estimate"] for scores in sets]
    assert f"\u2212{100 * (old[0] - old[1]):.1f} worse" in table
    assert f"\u2212{100 * (old[0] - old[2]):.1f} unclear" in table  # the intervals overlap


def test_each_task_row_shows_its_numbers(elements: list[Element], report: dict[str, Any]) -> None:
    strips = [e.attributes["aria-label"] or "" for e in elements if e.attributes.get("class") == "strip"]
    for task, before in report["before"]["tasks"].items():
        label = next(text for text in strips if text.startswith(f"{task}:"))
        scores = [before, *(run["scores"]["tasks"][task] for run in report["after"].values())]
        assert all(f"{100 * score['accuracy']['estimate']:.1f}%" in label for score in scores)
        assert f"without the image {100 * before['blind']:.1f}%" in label


def test_the_matched_level_and_what_it_compares_are_shown(elements: list[Element]) -> None:
    figure = next(e for e in of_tag(elements, "figure") if e.attributes.get("class") == "matched").text
    assert "86.0% accuracy on words" in figure
    assert "Old tasks, accuracy 65.2% 77.4% best" in figure
    assert "1.021 0.612 best" in figure


def test_samples_show_each_answer_with_its_verdict(elements: list[Element], report: dict[str, Any]) -> None:
    cards = [e.text for e in of_tag(elements, "article")]
    assert cards[0] == (
        "words new Which word is written here? right answer harbor "
        "Before a red square ✗ wrong Plain tuning harbor ✓ right APP harbor ✓ right"
    )
    judged = copy.deepcopy(report)
    judged["samples"][0]["right"] = {"before": True, "full": False, "app": True}
    judged["samples"][1]["right"] = None
    cards = [e.text for e in of_tag(read_html(render_report(judged)), "article")]
    assert "Plain tuning harbor ✗ wrong" in cards[0]
    assert "✓" not in cards[1] and "✗" not in cards[1]


def test_the_audit_says_what_failed(report: dict[str, Any]) -> None:
    failed = copy.deepcopy(report)
    failed["after"]["app"]["audit"] |= {"reload_max_difference": 0.58, "trained_not_saved": ["projector.linear_1.bias"]}
    good, bad = (
        next(e.text for e in of_tag(read_html(render_report(r)), "section") if e.attributes["id"] == "audit")
        for r in (report, failed)
    )
    assert "✗" not in good and good.count("Reloaded, it gives the same logits") == 2
    assert "✗ Reloaded, it gives other logits largest difference 0.58" in bad
    assert "✗ Trained but not saved: 1 projector.linear_1.bias" in bad
    worst = max(t["weight_leak"] for t in report["after"]["full"]["audit"]["tensors"])
    assert f"{worst:.3g}" in good


def test_a_level_that_was_never_reached_is_said() -> None:
    shown = shown_text(render_report(make_report("neither")))
    assert "There is no level that every method reached" in shown
    assert "APP never reached it." in shown
    assert "APP was not better. No clear difference." in shown


def test_when_app_loses_it_is_said_as_plainly() -> None:
    shown = shown_text(render_report(make_report("full")))
    assert "APP was not better. Plain tuning kept more at equal learning." in shown


def test_a_model_near_its_blind_baseline_gets_no_claim(report: dict[str, Any]) -> None:
    near = copy.deepcopy(report)
    near["before"]["pope"]["blind_accuracy"] = 0.80
    assert "the model is only +6.5 points from that, too little for any claim" in shown_text(render_report(near))
    assert "too little" not in shown_text(render_report(report))


@pytest.mark.parametrize("key", ["geometry", "samples"])
def test_a_missing_section_is_left_out_and_named(report: dict[str, Any], key: str) -> None:
    without = {name: value for name, value in report.items() if name != key}
    page = next(page for page in REPORT.pages if page.needs == (key,))
    assert_left_out(render_report(without), {page.id})


def test_an_empty_section_is_left_out_too(report: dict[str, Any]) -> None:
    assert_left_out(render_report(report | {"samples": []}), {"samples"})


def test_a_report_with_only_what_is_required(report: dict[str, Any]) -> None:
    bare = copy.deepcopy(report)
    for key in (
        "geometry",
        "samples",
        "matched",
        "model",
        "environment",
        "config",
        "command",
        "fixture",
        "interval_note",
    ):
        del bare[key]
    for scores in (bare["before"], *(run["scores"] for run in bare["after"].values())):
        for key in ("pope", "chair", "text", "old_mean"):
            del scores[key]
    bare["after"] = {name: {"scores": run["scores"]} for name, run in bare["after"].items()}
    html = render_report(bare)
    assert_left_out(html, {"hallucination", "curves", "samples", "geometry", "drift", "audit"})
    assert "no comparison at equal learning" in shown_text(html)
    assert "Invented numbers" not in html


def assert_left_out(html: str, ids: set[str]) -> None:
    elements = read_html(html)
    assert {e.attributes["id"] for e in of_tag(elements, "section")} == {page.id for page in REPORT.pages} - ids
    footer = of_tag(elements, "footer")[0].text
    assert all((page.title in footer) == (page.id in ids) for page in REPORT.pages)


def test_time_and_memory_of_the_whole_run_are_told(report: dict[str, Any]) -> None:
    text = shown_text(render_report(report | {"cost": {"seconds": 330.0, "peak_memory_mb": 3584.0}}))
    assert "Whole run 5 min 30 s" in text and "Most memory held 3.50 GiB" in text
    assert "Most memory held" not in shown_text(render_report(report | {"cost": {"seconds": 330.0}}))


def test_a_method_without_a_curve_is_named(report: dict[str, Any]) -> None:
    partly = copy.deepcopy(report)
    del partly["after"]["app"]["curve"]
    assert "No curve in the data for: APP." in shown_text(render_report(partly))


def test_more_methods_and_open_tasks_need_no_new_code(report: dict[str, Any]) -> None:
    more = copy.deepcopy(report)
    more["after"]["l2sp"] = more["after"]["own method"] = more["after"]["full"]
    for name in ("l2sp", "own method"):
        more["matched"]["reached"][name] = False
        more["matched"]["at_level"][name] = None
        for sample in more["samples"]:
            sample[name] = "circle"
    more["old_tasks"].append("caption")
    for scores in (more["before"], *(run["scores"] for run in more["after"].values())):
        scores["tasks"]["caption"] = {"gold_nats": {"estimate": 9.87, "low": 9.0, "high": 10.0}, "num_items": 50}
    shown = shown_text(render_report(more))
    assert "own method never reached it." in shown
    assert "9.870" in shown


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}\u2028"


def hostile(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: hostile(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [hostile(item, key) for item in value]
    return HOSTILE if isinstance(value, str) and key not in ("image_png_base64", "better", "metric") else value


def test_strings_of_the_data_stay_text(report: dict[str, Any]) -> None:
    evil = hostile({k: v for k, v in report.items() if k not in ("new_task", "old_tasks")})
    evil["new_task"], evil["old_tasks"] = HOSTILE, []
    for scores in (evil["before"], *(run["scores"] for run in evil["after"].values())):
        scores["tasks"] = {HOSTILE: scores["tasks"]["words"]}
    evil["after"][HOSTILE] = evil["after"]["full"]
    evil["matched"]["reached"][HOSTILE] = True
    evil["matched"]["at_level"][HOSTILE] = evil["matched"]["at_level"]["full"]
    for sample in evil["samples"]:
        sample[HOSTILE] = HOSTILE
    html = render_report(evil)
    elements = read_html(html)
    assert len(of_tag(elements, "script")) == 1
    assert {e.attributes["src"][:5] for e in of_tag(elements, "img")} == {"data:"}  # type: ignore[index]
    assert not [name for e in elements for name in e.attributes if name.startswith("on")]
    assert "49" not in of_tag(elements, "h1")[0].text
    assert json.loads(of_tag(elements, "script")[0].texts[0])["title"] == HOSTILE


def test_the_data_is_inside_without_its_images(elements: list[Element], report: dict[str, Any]) -> None:
    inside = json.loads("".join(of_tag(elements, "script")[0].texts))
    expected = copy.deepcopy(report)
    for sample in expected["samples"]:
        del sample["image_png_base64"]
    assert inside == expected


def test_the_same_data_gives_the_same_bytes(tmp_path: Path, report: dict[str, Any], html: str) -> None:
    data, page = tmp_path / "report.json", tmp_path / "page" / "report.html"
    data.write_text(json.dumps(report))
    program = "import sys, pathlib, textanchor.report as r; r.build_report(*map(pathlib.Path, sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", program, data, page], check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    assert page.read_bytes() == html.encode()
    assert build_report(report, page) == page
    assert page.read_bytes() == html.encode()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"title": "x",\n "created": }', r"report\.json, line 2, column 13"),
        ('{"title": "x"}', r"report\.json is not a report.*`created` is missing"),
        ("[]", r"the whole file` is \[\], expected an object"),
    ],
)
def test_malformed_data_leaves_the_old_page_alone(tmp_path: Path, text: str, expected: str) -> None:
    data, page = tmp_path / "report.json", tmp_path / "report.html"
    data.write_text(text)
    page.write_text("old")
    with pytest.raises(DataError, match=expected):
        build_report(data, page)
    assert page.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
