"""`textanchor evaluate` on a saved tiny model: its table, and what it refuses before it works."""

from pathlib import Path

import pytest

from helpers.tiny_chat import tiny_chat_model
from textanchor.errors import ConfigError, DataError, TextanchorError
from textanchor.evaluation.command import evaluate_named


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    for part in tiny_chat_model("llava"):
        part.save_pretrained(path)
    return path


def test_the_table_tells_every_suite_and_the_change(folder: Path, tmp_path: Path) -> None:
    names = ["color", "caption", "pope_scenes", "chair_scenes", "text"]
    first = evaluate_named(folder, names, num_items=3, out=tmp_path / "first", progress=False)
    table = str(first)
    for told in ("color", "caption", "POPE, adversarial", "CHAIR_i", "nats for each of", str(tmp_path / "first")):
        assert told in table
    again = evaluate_named(
        folder, ["color"], num_items=3, out=tmp_path / "again", baselines=[tmp_path / "first"], progress=False
    )
    assert str(again).count("+0.000 [+0.000, +0.000]  equal") == 2, "the same model has not changed"


def test_an_unfit_baseline_is_refused_before_the_work(folder: Path, tmp_path: Path) -> None:
    evaluate_named(folder, ["color"], num_items=3, out=tmp_path / "first", progress=False)
    with pytest.raises(DataError, match="--num-items"):
        evaluate_named(
            folder, ["color"], num_items=4, out=tmp_path / "two", baselines=[tmp_path / "first"], progress=False
        )
    with pytest.raises(TextanchorError, match="baseline itself"):
        evaluate_named(folder, ["color"], num_items=3, out=tmp_path / "first", baselines=[tmp_path / "first"])
    with pytest.raises(DataError, match="no-such"):
        evaluate_named(folder, ["color"], num_items=3, out=tmp_path / "two", baselines=[tmp_path / "no-such"])
    assert not (tmp_path / "two").exists()


def test_a_baseline_decides_the_precision(folder: Path, tmp_path: Path) -> None:
    before = tmp_path / "before"
    evaluate_named(folder, ["color"], num_items=3, out=before, precision="bfloat16", progress=False)
    kept = evaluate_named(
        folder, ["color"], num_items=3, out=tmp_path / "auto", baselines=[before], use_cache=False, progress=False
    )
    assert kept.record.extra["precision"] == "bfloat16" and kept.record.config["precision"]["asked"] == "auto"
    assert str(kept).count("+0.000 [+0.000, +0.000]  equal") == 2
    with pytest.raises(ConfigError, match="before: was scored in bfloat16, and --precision says float32"):
        evaluate_named(folder, ["color"], num_items=3, out=tmp_path / "other", baselines=[before], precision="float32")
    other = tmp_path / "float32"
    evaluate_named(folder, ["color"], num_items=3, out=other, precision="float32", progress=False)
    with pytest.raises(ConfigError, match=r"was scored in bfloat16, and .*float32 says float32"):
        evaluate_named(folder, ["color"], num_items=3, out=tmp_path / "third", baselines=[before, other])
    assert not (tmp_path / "third").exists() and not (tmp_path / "other").exists()


def test_an_unknown_suite_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'colour'"):
        evaluate_named(tmp_path / "no-model", ["colour"], num_items=3, out=tmp_path / "out")
