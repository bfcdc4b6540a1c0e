"""A small study on a tiny model: the commands of the verbs that write, and what of their outputs is to be the same."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from helpers.faults import textanchor
from helpers.tiny_llava import tiny_llava_with_processor
from textanchor.outputs import HIDDEN
from textanchor.records import RunRecord

PARTS: dict[str, Any] = {
    "projector": {"train": "full", "learning_rate": 1e-2},
    "language_model": {"train": "lora", "learning_rate": 1e-2, "rank": 4},
}
TRAINING = {"batch_size": 4, "precision": "float32", "scheduler": "constant"}  # a step too many would be seen
ADAPT = {
    "model": "model",
    "data": {"task": "color", "num_images": 8},
    "parts": PARTS,
    "training": TRAINING | {"max_steps": 5, "save_steps": 2},
    "method": {"name": "app", "language_model": {"mode": "inputs", "kept_fraction": 0.5}, "num_texts": 4},
    "output": "adapted",
}
MATRIX = {
    "name": "small",
    "defaults": {"model": "model", "data": {"num_images": 8}, "parts": PARTS, "training": TRAINING | {"max_steps": 2}},
    "tasks": {"color": {"retained": ["shape"]}},
    "arms": {"plain": {}, "app": {"set": {"method": ADAPT["method"]}}},
    "seeds": [0],
    "evaluation": {
        "validation_items": 2,
        "test_items": 2,
        "texts": 2,
        "points": 2,
        "geometry_images": 0,
        "precision": "float32",
    },
}


def write_study(folder: Path) -> None:
    """A model, a tuned one, and the configurations."""
    model, processor = tiny_llava_with_processor()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    with torch.no_grad():
        for parameter in model.model.multi_modal_projector.parameters():
            parameter.add_(0.05)
    model.save_pretrained(folder / "tuned")
    processor.save_pretrained(folder / "tuned")
    for name, content in (("adapt", ADAPT), ("matrix", MATRIX)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))


@dataclass(frozen=True)
class Verb:
    """One command of the study."""

    arguments: tuple[str, ...]
    output: str
    content: Callable[[Path], Any]
    """What of the output folder must be equal however often the command was killed on its way."""
    grows: bool = False
    """Whether its output folder fills file by file; else it is there whole or not at all."""


def _model(folder: Path) -> Any:
    return (folder / "model.safetensors").read_bytes(), json.loads((folder / "config.json").read_text())


def _adapted(folder: Path) -> Any:
    return _model(folder), json.loads((folder / "audit.json").read_text())


def _scores(folder: Path) -> Any:
    # the files of an evaluation that is finished
    return (
        (folder / "scores.jsonl").read_bytes(),
        (folder / "summary.json").read_bytes(),
        RunRecord.load(folder / "run.json").scores,
    )


def _runs(folder: Path) -> Any:
    records = {path.name: RunRecord.load(path) for path in (folder / "runs").iterdir()}
    assert (folder / "report.html").is_file()
    return {name: (record.extra["curve"], record.extra["audit"]) for name, record in records.items()}


def _verdict(folder: Path) -> Any:
    report = json.loads((folder / "diff.json").read_text())
    return report["verdict"], report["tensors"], (folder / "diff.html").is_file()


def _measured(folder: Path) -> Any:
    numbers = json.loads((folder / "geometry.json").read_text())
    return numbers["places"], numbers["claims"], (folder / "geometry.html").is_file()


VERBS = {
    "adapt": Verb(("adapt", "adapt.yaml"), "adapted", _adapted),
    "evaluate": Verb(
        ("evaluate", "model", "--suite", "color,text", "--num-items", "4", "--no-cache", "--out", "evaluated"),
        "evaluated",
        _scores,
        grows=True,
    ),
    "compare": Verb(("compare", "matrix.yaml", "--out", "compared"), "compared", _runs, grows=True),
    "diff": Verb(("diff", "model", "tuned", "--out", "differs"), "differs", _verdict),
    "repair": Verb(("repair", "tuned", "--base", "model", "--out", "repaired"), "repaired", _model),
    "measure": Verb(
        (
            *("measure", "model", "--data", "scenes", "--num-images", "20", "--num-texts", "20"),
            *("--gallery-images", "0", "--out", "measured"),
        ),
        "measured",
        _measured,
    ),
}


SHORT = [name for name in VERBS if name != "measure"]
"""Those that take a second or two."""


def assert_goes_on(verb: str, place: Path, study: Path) -> None:
    """The same command again, resumed where that can be, ends with the output of `study` and leaves nothing else."""
    command = VERBS[verb]
    can_resume = any(place.glob("adapted.checkpoints/checkpoint-*/textanchor.json"))
    done = textanchor(place, *command.arguments, *(["--resume"] if can_resume else []))
    assert done.code == 0, done.said
    assert command.content(place / command.output) == command.content(study / command.output)
    assert hidden(place) == []
    outputs = {other.output for other in VERBS.values()}
    inputs = {path.name for path in study.iterdir()} - outputs
    assert {path.name for path in place.iterdir()} - outputs == inputs
    assert list((place / "tmp").iterdir()) == [], "in the system's temporary folder"


def hidden(folder: Path) -> list[Path]:
    """What is half-written below a folder, or was left so."""
    return [path for path in folder.rglob("*") if HIDDEN.fullmatch(path.name)]
