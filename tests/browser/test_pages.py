"""Every page in a real browser: no error, nothing loaded, charts drawn, hostile text as text, no broken layout."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import textanchor as ta
from helpers.comparison_records import record
from helpers.report_fixture import make_report
from helpers.tiny_chat import tiny_chat_model
from textanchor.config import from_dict
from textanchor.experiment.reading.summary import summarise_runs
from textanchor.files import read_json
from textanchor.report import render_report
from textanchor.report.compare import render_compare
from textanchor.report.diff import render_diff
from textanchor.report.documents import GEOMETRY
from textanchor.report.repair import render_repair

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None, reason="Debian's chromium and chromium-driver are not installed"
)

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)
WIDTHS = (400, 1600)
HOSTILE = "<script>window.broken = 1</script>\"'><img src=x onerror='window.broken = 1'>" + "long" * 2500
WRITTEN = {"title", "sentence", "matched_sentence", "question", "gold", "base", "tuned", "model", "way_out"}
"""Keys whose texts come from users, their data or their folders."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pages(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of every kind from real results, and one of each whose texts are hostile."""
    folder = tmp_path_factory.mktemp("pages")
    base, tuned = _saved(folder / "base"), _saved(folder / "tuned", shift=0.05)
    mended = ta.repair(
        tuned, base=base, out=folder / "mended", plan=from_dict(ta.RepairPlan, {"interpolate": {"projector": 0.5}})
    )
    curves = [[(5.0, 0.1), (3.0, 0.4), (1.0, 1.5), (0.2, 3.0)], [(5.0, 0.1), (3.0, 0.1), (1.0, 0.2), (0.3, 0.4)]]
    runs = [
        record(arm, curve, seed=seed) for arm, curve in zip(("plain", "app"), curves, strict=True) for seed in (0, 1)
    ]
    content = {
        "report": make_report(),
        "geometry": read_json(repository / "docs" / "evidence" / "geometry" / "scenes.json"),
        "diff": ta.diff(base, tuned).to_dict(),
        "repair": mended.to_dict(),
        "compare": summarise_runs("tiny", runs),
    }
    writers: dict[str, Callable[[Any], str]] = {
        "report": render_report,
        "geometry": GEOMETRY.render,
        "diff": render_diff,
        "repair": lambda values: render_repair(values, mended.part_rows()),
        "compare": render_compare,
    }
    written = {}
    for name, values in content.items():
        for kind, shown in ((name, values), (f"hostile {name}", hostile(values))):
            written[kind] = folder / f"{kind}.html"
            written[kind].write_text(writers[name](shown), encoding="utf-8")
    return written


def hostile(values: Any, key: str = "") -> Any:
    """The same data with markup, quotes and a word of 10,000 characters in every text that people write."""
    if isinstance(values, dict):
        return {name: hostile(value, name) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [hostile(value, key) for value in values]
    return f"{values} {HOSTILE}" if key in WRITTEN and isinstance(values, str) else values


def _saved(folder: Path, shift: float = 0.0) -> Path:
    model, processor = tiny_chat_model("llava")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "projector" in name:
                parameter.add_(shift * torch.randn_like(parameter))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


KINDS = ("report", "geometry", "diff", "repair", "compare")


def show(browser: webdriver.Chrome, page: Path, *, width: int = 1600, dark: bool = False) -> None:
    """The page in a window of this width, with the log of the browser empty before."""
    browser.get_log("browser"), browser.get_log("performance")
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get(page.as_uri())


def problems(browser: webdriver.Chrome) -> list[str]:
    """What the console says, and every address that was asked for beside the page itself and its own pictures."""
    said = [entry["message"] for entry in browser.get_log("browser")]
    requests = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [r["params"]["request"]["url"] for r in requests if r["method"] == "Network.requestWillBeSent"]
    return said + [url for url in sent if not url.startswith(("file://", "data:"))]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_shows_all_it_has_and_fits(
    browser: webdriver.Chrome, pages: dict[str, Path], kind: str, width: int, dark: bool
) -> None:
    show(browser, pages[kind], width=width, dark=dark)
    assert problems(browser) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    charts = browser.execute_script(CHARTS)
    assert charts or kind == "repair", "no chart at all"
    for chart in charts:
        assert chart["marks"] > 0 and chart["width"] > 100 and chart["height"] > 50, chart
        assert chart["outside"] == 0, f"marks lie outside of {chart}"
    assert browser.execute_script(BROKEN_NUMBERS) == [], "numbers that are broken over lines or run into one another"
    back, text = browser.execute_script(
        "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    )
    assert (_lightness(back) < _lightness(text)) == dark


CHARTS = """
return [...document.querySelectorAll('figure svg, svg[role=img]')].map(svg => {
  const box = svg.getBoundingClientRect();
  const marks = [...svg.querySelectorAll('path, circle, rect, line, polyline, polygon, use')];
  const outside = marks.filter(mark => {
    const b = mark.getBoundingClientRect();
    return b.right < box.left - 2 || b.left > box.right + 2 || b.bottom < box.top - 2 || b.top > box.bottom + 2;
  });
  return {marks: marks.length, outside: outside.length, width: box.width, height: box.height};
}).filter(chart => chart.width > 40);
"""
"""Legend markers are smaller."""

BROKEN_NUMBERS = """
const written = node => {
  const range = document.createRange();
  range.selectNodeContents(node);
  return range.getBoundingClientRect();
};
const broken = [...document.querySelectorAll('.ticks span')].filter(tick => written(tick).height > 24);
const touching = [...document.querySelectorAll('.ends .number')].filter(
  number => number.nextElementSibling && written(number).right > written(number.nextElementSibling).left - 2);
return [...broken, ...touching].map(node => node.textContent);
"""


def _lightness(color: str) -> float:
    return sum(map(float, re.findall(r"[\d.]+", color)[:3]))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_text_is_text_and_breaks_nothing(
    browser: webdriver.Chrome, pages: dict[str, Path], kind: str, width: int
) -> None:
    show(browser, pages[f"hostile {kind}"], width=width)
    assert problems(browser) == []
    assert browser.execute_script("return window.broken") is None, "markup in the data was run"
    assert not browser.find_elements(By.CSS_SELECTOR, "script:not([type='application/json']), img[src=x]")
    if kind != "compare":  # whose summary has no text that people write
        assert "<script>window.broken" in browser.find_element(By.TAG_NAME, "body").text
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width, "the page scrolls sideways"


@pytest.mark.parametrize("kind", KINDS)
def test_the_keyboard_goes_down_the_page(browser: webdriver.Chrome, pages: dict[str, Path], kind: str) -> None:
    show(browser, pages[kind])
    order = []
    for _ in range(60):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        place = browser.execute_script(FOCUSED)
        if place is None:
            break
        order.append(place)
    assert order, "nothing can be reached by the keyboard"
    assert order == sorted(order) and len(set(order)) == len(order), "the focus jumps back"


FOCUSED = """
const focused = document.activeElement;
if (!focused || focused === document.body) return null;
return [...document.querySelectorAll('*')].indexOf(focused);
"""


def test_a_page_that_asks_for_something_is_seen(browser: webdriver.Chrome, tmp_path: Path) -> None:
    page = tmp_path / "asks.html"
    page.write_text(
        "<img src='http://127.0.0.1:9/x.png'><script>undefined_name()</script><div style='width:3000px'>w</div>"
    )
    show(browser, page, width=400)
    found = problems(browser)
    assert any("undefined_name" in text for text in found) and any("127.0.0.1:9" in text for text in found)
    assert browser.execute_script("return document.documentElement.scrollWidth") > 400
