"""Our model as lmms-eval calls it, against the installed package, or else its interface as written down here.

lmms-eval 0.7.3 demands torchvision and pins wandb, so it is not among the test dependencies; what stands in for it
below was read in its sources: `api/model.py`, `models/registry_v2.py`, `api/task.py`, `api/instance.py`.
"""

import abc
import importlib
import importlib.util
import sys
import tomllib
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.tiny_chat import tiny_chat_model
from textanchor.data.items import Item
from textanchor.errors import ConfigError, DataError
from textanchor.evaluation.scoring.candidates import score_candidates
from textanchor.evaluation.scoring.generation import generate_answers

INSTALLED = importlib.util.find_spec("lmms_eval") is not None


class WrittenDown(abc.ABC):
    """`lmms_eval.api.model.lmms`."""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.task_dict: dict[str, Any] = {}

    @abc.abstractmethod
    def loglikelihood(self, requests: Any) -> Any: ...

    @abc.abstractmethod
    def generate_until(self, requests: Any) -> Any: ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests: Any) -> Any: ...

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Any:
        arguments = dict(pair.split("=", 1) for pair in arg_string.split(",") if pair)
        return cls(**arguments, **{k: v for k, v in (additional_config or {}).items() if v is not None})


@dataclass(frozen=True)
class ModelManifest:
    """`lmms_eval.models.registry_v2.ModelManifest`."""

    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass
class Request:
    """`lmms_eval.api.instance.Instance`, of which models read `args`."""

    args: tuple[Any, ...]


@pytest.fixture(scope="module")
def plugin() -> Any:
    """Our module, with the stand-in where lmms-eval is not installed."""
    patch = pytest.MonkeyPatch()
    if not INSTALLED:
        modules = {name: types.ModuleType(name) for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.models")}
        modules["lmms_eval.api.model"] = types.ModuleType("lmms_eval.api.model")
        modules["lmms_eval.models.registry_v2"] = types.ModuleType("lmms_eval.models.registry_v2")
        vars(modules["lmms_eval.api.model"])["lmms"] = WrittenDown
        vars(modules["lmms_eval.models.registry_v2"])["ModelManifest"] = ModelManifest
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
    yield importlib.import_module("textanchor.evaluation.lmms")
    sys.modules.pop("textanchor.evaluation.lmms")
    patch.undo()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    for part in tiny_chat_model("llava"):
        part.save_pretrained(path)
    return path


DOCUMENTS = [{"image": Image.new("RGB", (32, 32), color), "answer": color} for color in ("red", "blue")]
QUESTION = "What color is it?"


@pytest.fixture(scope="module")
def model(plugin: Any, folder: Path) -> Any:
    found = plugin.TextanchorModel.create_from_arg_string(f"pretrained={folder}", {"batch_size": "2", "device": "cpu"})
    found.task_dict = {"colors": {"test": DOCUMENTS}}  # as the evaluator sets it
    return found


def images_of(document: dict[str, Any]) -> list[Image.Image]:
    return [document["image"]]


def items(answer: str = "") -> list[Item]:
    return [
        Item(id=str(i), task="colors", question=QUESTION, answer=answer or d["answer"], image=d["image"])
        for i, d in enumerate(DOCUMENTS)
    ]


def test_the_entry_point_leads_to_a_class_that_lmms_eval_accepts(plugin: Any, repository: Path) -> None:
    entry_points = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["entry-points"]
    module, _, function = entry_points["lmms_eval.models"]["textanchor"].partition(":")
    manifest = getattr(importlib.import_module(module), function)()
    assert manifest.model_id == "textanchor"
    path, _, name = manifest.simple_class_path.rpartition(".")
    found = getattr(importlib.import_module(path), name)
    assert issubclass(found, importlib.import_module("lmms_eval.api.model").lmms)
    assert found.is_simple is True
    assert manifest.chat_class_path is None


def test_answers_are_those_of_evaluate_in_the_order_of_the_requests(model: Any) -> None:
    settings = [{"max_new_tokens": 6, "until": ["\n\n"]}, {"max_new_tokens": 3, "temperature": 0, "num_beams": 1}]
    requests = [Request((QUESTION, own, images_of, i, "colors", "test")) for i, own in enumerate(settings)]
    answers = model.generate_until(requests)
    for i, length in enumerate((6, 3)):
        expected = generate_answers(model._model, model._processor, items()[i : i + 1], max_new_tokens=length)
        assert answers[i] == expected[0].split("\n\n")[0].strip()


def test_an_answer_ends_before_the_first_stop_string(plugin: Any) -> None:
    assert plugin._cut("yes\n\nno. Q: x", ["Q:", "\n\n"]) == "yes"
    assert plugin._cut(" yes ", None) == "yes"


def test_the_least_of_several_values_is_the_likeliest_choice(model: Any) -> None:
    requests = [
        Request((QUESTION, f" {choice}", images_of, i, "colors", "test"))
        for i in range(2)
        for choice in ("red", "blue")
    ]
    values = [value for value, _ in model.loglikelihood(requests)]
    for i, (red, blue) in enumerate(zip(values[::2], values[1::2], strict=True)):
        for answer, value in (("red", red), ("blue", blue)):
            (score,) = score_candidates(model._model, model._processor, items(answer)[i : i + 1])
            assert value == pytest.approx(score.nats[0], rel=1e-4)
            assert value > 0
    by_function = model.loglikelihood([Request((QUESTION, lambda d: d["answer"], images_of, 1, "colors", "test"))])
    assert by_function[0][0] == pytest.approx(values[3], rel=1e-4)
    assert isinstance(by_function[0][1], bool)


def test_what_is_not_offered_is_refused(plugin: Any, model: Any, folder: Path) -> None:
    with pytest.raises(ConfigError, match="greedily"):
        model.generate_until([Request((QUESTION, {"do_sample": True}, images_of, 0, "colors", "test"))])
    with pytest.raises(DataError, match="2 images"):
        model.generate_until([Request((QUESTION, {}, lambda d: [d["image"]] * 2, 0, "colors", "test"))])
    with pytest.raises(ConfigError, match="several rounds"):
        model.generate_until_multi_round([])
    with pytest.raises(ConfigError, match="'auto'"):
        plugin.TextanchorModel(str(folder), batch_size="auto")
