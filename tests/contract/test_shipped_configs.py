"""Every configuration that ships is read by the real classes, and every method has one."""

import importlib
from pathlib import Path

import pytest

from textanchor.config import load_config
from textanchor.experiment.cells import expand, load_matrix
from textanchor.methods import METHODS
from textanchor.repairs import RepairPlan
from textanchor.training.config import AdaptConfig
from textanchor.training.method import AbstractMethod, load_method

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("adapt_*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_is_read(path: Path) -> None:
    config = load_config(AdaptConfig, path)
    assert isinstance(load_method(config.method), AbstractMethod)


@pytest.mark.parametrize("path", sorted(CONFIGS[0].parent.glob("repair_*.yaml")), ids=lambda path: path.stem)
def test_a_repair_plan_is_read(path: Path) -> None:
    assert load_config(RepairPlan, path).filters


MATRICES = [*CONFIGS[0].parent.glob("compare_*.yaml"), *(CONFIGS[0].parents[1] / "experiments/matrices").glob("*.yaml")]


@pytest.mark.parametrize("path", sorted(MATRICES), ids=lambda path: path.stem)
def test_every_cell_of_a_comparison_is_a_run(path: Path) -> None:
    assert expand(load_matrix(path))


def test_there_are_some_and_each_method_is_shown_or_the_default() -> None:
    shown = {load_config(AdaptConfig, path).method["name"] for path in CONFIGS}
    assert shown | {"full"} == METHODS.keys()


def test_the_table_of_methods_names_every_file_and_class(repository: Path) -> None:
    files = {path.stem for path in (repository / "src/textanchor/methods").glob("*.py")} - {"__init__"}
    assert {target.partition(":")[0].rpartition(".")[2] for target in METHODS.values()} == files
    for name, target in METHODS.items():
        module, _, attribute = target.partition(":")
        method = getattr(importlib.import_module(module), attribute)
        assert issubclass(method, AbstractMethod), name
        assert "Source:" in (method.__doc__ or ""), f"{name} does not say where it comes from"


def test_every_method_says_what_it_needs() -> None:
    needs = {config.method["name"]: load_method(config.method).needs for config in map(load, CONFIGS)}
    others = {name: need for name, need in needs.items() if need != "nothing" and name not in ("app", "replay")}
    assert others == {"ewc": "text", "corda": "text", "lora_null": "text"}
    by_file = {path.stem: load_method(load(path).method).needs for path in CONFIGS}
    assert (by_file["adapt_replay"], by_file["adapt_replay_own"]) == ("old data", "reference questions")
    assert by_file["adapt_near_team"] == "reference questions"
    assert by_file["adapt_embedded_words"] == "reference images"
    assert by_file["adapt_llava_json"] == "text"
    assert load_method({"name": "ewc", "old": {"tasks": ["shape"], "num_images": 1}}).needs == "old data"


def load(path: Path) -> AdaptConfig:
    return load_config(AdaptConfig, path)
