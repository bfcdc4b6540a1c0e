"""`textanchor evaluate --baseline`: retention.json, its page and its table, from runs of a tiny model."""

from pathlib import Path
from typing import Any

import pytest

from helpers.html_reading import of_tag, read_html
from helpers.tiny_chat import tiny_chat_model
from textanchor.errors import ConfigError, DataError, TextanchorError
from textanchor.evaluation.command import evaluate_named
from textanchor.files import read_json, write_json
from textanchor.records import Score
from textanchor.report.documents import RETENTION

SUITES = ["color", "count", "text"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluations of three different models: before, one, two."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("before", "one")):
        model = folder / f"model-{name}"
        for part in tiny_chat_model("llava", seed=seed):
            part.save_pretrained(model)
        evaluated(model, folder / name)
    return folder


def evaluated(model: Path, out: Path, **settings: Any) -> Any:
    return evaluate_named(model, SUITES, num_items=3, out=out, use_cache=False, progress=False, **settings)


def test_a_baseline_gives_json_page_and_table(runs: Path) -> None:
    baselines = [runs / "before"]
    result = evaluated(runs / "model-one", runs / "after", baselines=baselines, tuned=["color"])
    retention = read_json(runs / "after" / "retention.json")
    assert retention == result.retention
    assert retention["runs"] == ["before", "after"]
    assert {name: suite["tuned"] for name, suite in retention["suites"].items()} == {
        "color": True,
        "count": False,
        "text": False,
    }
    color = retention["suites"]["color"]["measures"]["gold_nats"]
    assert color["forgetting"]["estimate"] == pytest.approx(color["after"] - color["before"])
    assert retention["suites"]["color"]["measures"]["accuracy"]["forgetting"]["estimate"] == pytest.approx(
        retention["suites"]["color"]["measures"]["accuracy"]["before"]
        - retention["suites"]["color"]["measures"]["accuracy"]["after"]
    )
    assert retention["transfer"]["task"]["gold_nats"]["suites"] == ["count"]
    assert len(retention["curve"]) == 2
    for told in ("forgetting is positive where after is worse", "color (tuned)", "transfer, mean change over 1 task"):
        assert told in str(result)
    page = read_html((runs / "after" / "retention.html").read_text(encoding="utf-8"))
    assert "What after kept of before" in of_tag(page, "h1")[0].text
    assert f"{color['forgetting']['estimate']:+.3f}".replace("-", "\u2212") in page[0].text


def test_the_same_model_has_lost_nothing(runs: Path) -> None:
    result = evaluated(runs / "model-before", runs / "again", baselines=[runs / "before"])
    for suite in result.retention["suites"].values():
        for values in suite["measures"].values():
            assert values["forgetting"] == {"estimate": 0.0, "low": 0.0, "high": 0.0}
    assert "equal" in str(result)


def test_a_sequence_of_runs_has_a_bwt_and_a_curve_to_compare(runs: Path) -> None:
    baselines = [runs / "before", runs / "one"]
    first = evaluated(runs / "model-before", runs / "method-a", baselines=baselines, tuned=["color", "count"])
    assert first.retention["bwt"].keys() == {"accuracy", "gold_nats"}
    one, last = (read_json(runs / name / "summary.json")["tasks"]["color"] for name in ("one", "method-a"))
    expected = last["gold_nats"]["estimate"] - one["gold_nats"]["estimate"]
    assert first.retention["bwt"]["gold_nats"]["estimate"] == pytest.approx(expected)
    second = evaluated(
        runs / "model-one", runs / "method-b", baselines=baselines, tuned=["color", "count"], against=runs / "method-a"
    )
    assert second.retention["matched"]["kept"].keys() == {"method-a", "method-b"}
    assert "matched learning" in str(second) or "have learned" in str(second)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tuned": ["color"]}, "--baseline"),
        ({"against": "before"}, "--baseline"),
        ({"baselines": ["before"], "tuned": ["colour"]}, "not evaluated here"),
        ({"baselines": ["before"], "against": "before"}, "retention.json"),
        ({"baselines": ["none"]}, "none"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_the_work(runs: Path, settings: dict[str, Any], told: str) -> None:
    places = {key: runs / value for key, value in settings.items() if key == "against"}
    places |= {key: [runs / name for name in names] for key, names in settings.items() if key == "baselines"}
    with pytest.raises((ConfigError, DataError, TextanchorError), match=told):
        evaluated(runs / "no-model", runs / "never", **{**settings, **places})
    assert not (runs / "never").exists()


def test_other_items_are_refused_before_the_work(runs: Path) -> None:
    with pytest.raises(DataError, match="--num-items"):
        evaluate_named(runs / "no-model", SUITES, num_items=4, out=runs / "never", baselines=[runs / "before"])
    assert not (runs / "never").exists()


def rows(suite: str, **metrics: list[float]) -> list[Score]:
    return [
        Score(suite=suite, version="1", item_id=str(i), metric=metric, value=value)
        for metric, values in metrics.items()
        for i, value in enumerate(values)
    ]


def test_the_page_is_checked_and_its_strings_stay_text(runs: Path, tmp_path: Path) -> None:
    from textanchor.evaluation.results.retention_report import Run, retention_report

    before = rows("<b>", correct=[1, 1], strict_correct=[1, 1]) + rows("old", correct=[1, 0])
    after = rows("<b>", correct=[1, 1], strict_correct=[0, 1]) + rows("old", correct=[0, 0])
    retention = retention_report([Run("a", before), Run("<script>", after)], tuned=["<b>"])
    assert retention["suites"]["<b>"]["format_loss"]["format"]["estimate"] == 0.5
    html = RETENTION.render(retention)
    assert "&lt;script&gt;" in html
    read_html(html)
    assert RETENTION.render(retention) == html
    del retention["suites"]["old"]["measures"]["accuracy"]["forgetting"]
    write_json(tmp_path / "retention.json", retention)
    with pytest.raises(DataError, match=r"suites.old.measures.accuracy.forgetting"):
        RETENTION.build(retention, tmp_path / "retention.html")
    assert not (tmp_path / "retention.html").exists()
