"""A sound study, each file of which a command reads; faults are put into copies of it."""

import json
import shutil
from contextlib import chdir, suppress
from pathlib import Path
from typing import Any

import yaml
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import TrainerCallback

from helpers.report_fixture import make_report
from helpers.study import ADAPT, write_study
from helpers.tiny_llava import tiny_llava_with_processor
from textanchor.vlm.loading import load_vlm

COLORS = ["red", "green", "blue", "yellow"]
ASKED = "What color is the image?"
COMMANDS: dict[str, list[str]] = {
    "adapt": ["adapt", "own.yaml"],
    "compare": ["compare", "matrix.yaml", "--out", "compared"],
    "evaluate": ["evaluate", "model", "--suite", "folder:questions", "--no-cache", "--out", "evaluated"],
    "measure": ["measure", "model", "--data", "captioned", "--num-images", "20", "--out", "measured"],
    "diff": ["diff", "model", "tuned", "--out", "differs"],
    "repair": ["repair", "tuned", "--base", "model", "--plan", "plan.yaml", "--out", "repaired"],
    "parts": ["parts", "model", "--save", "parts.json"],
    "report": ["report", "reported"],
    "demo": ["demo", "--out", "demonstrated"],
    "doctor": ["doctor"],
    "fetch": ["fetch"],
}
"""A command of each verb on the sound study; the first nine would end well."""
OUTPUT = {"adapt": "--output", "parts": "--save"}
"""Options that name the output, where they are not `--out`."""
PLAN = {
    "interpolate": {"vision_tower": 0.5},
    "projector": {"mode": "outputs", "num_kept": 4, "hold": "share", "share": 0.5},
    "num_texts": 4,
}


def write_sound_study(folder: Path, geometry: Path) -> None:
    """Models, an adapter, configurations, data, reports, and a run that was cut short after its first step."""
    write_study(folder)
    _write_adapter(folder)
    _write_data(folder)
    (folder / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    (folder / "own.yaml").write_text(yaml.safe_dump(_own()))
    for name in ("reported", "measured_before"):
        (folder / name).mkdir()
    (folder / "reported" / "report.json").write_text(json.dumps(make_report()))
    (folder / "measured_before" / "geometry.json").write_text(geometry.read_text())
    _write_interrupted(folder / "interrupted")
    _write_outputs(folder)


def _own() -> dict[str, Any]:
    """The configuration of the study's run with data of our own."""
    return ADAPT | {"data": {"path": "train.json", "image_folder": "questions"}, "export": "plain"}


def _write_adapter(folder: Path) -> None:
    model, _ = tiny_llava_with_processor()
    lora = LoraConfig(r=2, target_modules=r".*language_model.*\.(q|v)_proj", init_lora_weights=False)
    get_peft_model(model, lora).save_pretrained(folder / "adapter")


def _write_data(folder: Path) -> None:
    (folder / "questions").mkdir()
    talks, questions, captioned = [], [], []
    for i in range(20):
        name, color = f"{i}.png", COLORS[i % 4]
        Image.new("RGB", (40, 40), color).save(folder / "questions" / name)
        turns = [{"from": "human", "value": f"<image>\n{ASKED}"}, {"from": "gpt", "value": color}]
        talks.append({"id": f"c{i}", "image": name, "conversations": turns})
        row = {"id": f"q{i}", "image": name, "question": ASKED, "answer": color}
        questions.append(row | {"choices": COLORS})
        captioned.append(row | {"objects": ["circle"], "captions": [f"a {color} image"]})
    (folder / "train.json").write_text(json.dumps(talks))
    shutil.copytree(folder / "questions", folder / "captioned")
    for name, rows in (("questions", questions), ("captioned", captioned)):
        (folder / name / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "texts.txt").write_text("One text.\nAnd another one.\n")


class _Stop(TrainerCallback):
    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 1:
            raise InterruptedError


def _write_interrupted(folder: Path) -> None:
    """A run that an interruption ended after its first checkpoint, with the plan and the anchor that it keeps."""
    from textanchor.config import from_dict
    from textanchor.training.adapt import adapt
    from textanchor.training.config import AdaptConfig

    folder.mkdir()
    config = ADAPT | {"model": "../model", "training": ADAPT["training"] | {"max_steps": 2, "save_steps": 1}}
    (folder / "adapt.yaml").write_text(yaml.safe_dump(config))
    with chdir(folder), suppress(InterruptedError):
        adapt(from_dict(AdaptConfig, config), callbacks=[_Stop()], progress=False)
    assert (folder / "adapted.checkpoints" / "checkpoint-1" / "textanchor.json").is_file()


def _write_outputs(folder: Path) -> None:
    """A comparison of one run, an evaluation, one that was cut short before its record, and an anchor."""
    from textanchor.evaluation.command import evaluate_named
    from textanchor.experiment.command import compare
    from textanchor.holds import fit_anchor

    with chdir(folder):
        compare(Path("matrix.yaml"), Path("compared"), only=["arm=plain"])
        evaluate_named("model", ["folder:questions"], out=Path("baseline"), use_cache=False, progress=False)
        model, processor = load_vlm("model")
    shutil.copytree(folder / "baseline", folder / "evaluated_before")
    for name in ("run.json", "summary.json", "scores.jsonl"):
        (folder / "evaluated_before" / name).unlink()
    fit_anchor(model, processor, ["One text.", "And another one."], linears=[]).save(folder / "anchor")
