"""What the errors of diff, repair and parts tell people to do exists, and works for the input they are raised for."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText
from typer.main import get_command
from typer.testing import CliRunner

from helpers.tiny_models import tiny_vlm
from textanchor.cli import main

MODEL, ADAPTER = "model.safetensors", "adapter_model.safetensors"
COMMAND = re.compile(r"(?:`|run )textanchor ([a-z]+)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main.app, [str(argument) for argument in arguments])


def model_of(folder: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(folder)


def moved(model: Any) -> Any:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "projector" in name or "q_proj" in name or "lora_B" in name:
                parameter.add_(0.02)
    return model


def rewritten(folder: Path, change: Callable[[dict], dict], file: str = MODEL) -> None:
    save_file(change(load_file(folder / file)), folder / file, metadata={"format": "pt"})


def settings(folder: Path, change: Callable[[dict], dict]) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


class Place:
    """A base and a tuned model in folders of their own, and where a repair goes."""

    def __init__(self, root: Path) -> None:
        self.root, self.base, self.tuned, self.out = root, root / "base", root / "tuned", root / "out"
        tiny_vlm("llava").save_pretrained(self.base)
        moved(tiny_vlm("llava")).save_pretrained(self.tuned)

    @property
    def diff(self) -> tuple[object, ...]:
        return ("diff", self.base, self.tuned)

    @property
    def repair(self) -> tuple[object, ...]:
        return ("repair", self.tuned, "--base", self.base, "--out", self.out)

    def adapter(self, **options: Any) -> Path:
        """An adapter in the place of the tuned model."""
        shutil.rmtree(self.tuned)
        lora = LoraConfig(r=2, target_modules=r".*language_model.*q_proj", **options)
        moved(get_peft_model(model_of(self.base), lora)).save_pretrained(self.tuned)
        return self.tuned


Step = tuple[str, Callable[[Place], Any], tuple[Callable[[Place], Any], ...]]


def with_pickled_model(place: Place) -> Any:
    torch.save(load_file(place.tuned / MODEL), place.tuned / "pytorch_model.bin")
    (place.tuned / MODEL).unlink()
    return place.diff


def by_from_pretrained(place: Place) -> Any:
    model = model_of(place.tuned)
    (place.tuned / "pytorch_model.bin").unlink()
    model.save_pretrained(place.tuned)
    return place.diff


def with_pickled_adapter(place: Place) -> Any:
    file = place.adapter() / ADAPTER
    torch.save(load_file(file), place.tuned / "adapter_model.bin")
    file.unlink()
    return place.diff


def by_peft(place: Place) -> Any:
    model: Any = PeftModel.from_pretrained(model_of(place.base), place.tuned)
    model.save_pretrained(place.tuned)
    return place.diff


def with_factors_inside(place: Place) -> Any:
    adapter = shutil.copytree(place.adapter(), place.root / "adapter")
    model: Any = PeftModel.from_pretrained(model_of(place.base), adapter)
    shutil.rmtree(place.tuned)
    shutil.copytree(place.base, place.tuned)
    save_file({n.removeprefix("base_model.model."): t for n, t in model.state_dict().items()}, place.tuned / MODEL)
    return place.repair


def by_merging(place: Place) -> Any:
    model: Any = PeftModel.from_pretrained(model_of(place.base), place.root / "adapter")
    model.merge_and_unload().save_pretrained(place.tuned)
    return place.repair


def by_the_adapters_folder(place: Place) -> Any:
    return ("repair", place.root / "adapter", "--base", place.base, "--out", place.out)


def without_a_tensor(place: Place) -> Any:
    rewritten(place.tuned, lambda held: {n: t for n, t in held.items() if not n.endswith("linear_1.bias")})
    return place.repair


def said_to_be_quantised(place: Place) -> Any:
    settings(place.tuned, lambda values: values | {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    return place.repair


def without_that_entry(place: Place) -> Any:
    settings(place.tuned, lambda values: {k: v for k, v in values.items() if k != "quantization_config"})
    return place.repair


def without_config(place: Place) -> Any:
    (place.tuned / "config.json").unlink()
    return place.repair


def with_the_bases_config(place: Place) -> Any:
    shutil.copyfile(place.base / "config.json", place.tuned / "config.json")
    return place.repair


def with_another_config(place: Place) -> Any:
    shutil.copyfile(place.tuned / "config.json", place.root / "saved.json")
    settings(place.tuned, lambda values: values | {"text_config": values["text_config"] | {"vocab_size": 80}})
    return place.repair


def with_the_saved_config(place: Place) -> Any:
    shutil.copyfile(place.root / "saved.json", place.tuned / "config.json")
    return place.repair


def projector_frozen(place: Place) -> Any:
    rewritten(
        place.tuned, lambda held: held | {n: t for n, t in load_file(place.base / MODEL).items() if "projector" in n}
    )
    return (*place.diff, "--strict")


def adapter_as_base(place: Place) -> Any:
    place.adapter()
    return ("diff", place.tuned, place.base)


def index_of_another_form(place: Place) -> Any:
    (place.tuned / f"{MODEL}.index.json").write_text("[]")
    return ("parts", place.tuned)


def without_the_index(place: Place) -> Any:
    (place.tuned / f"{MODEL}.index.json").unlink()
    return ("parts", place.tuned)


def projector_by_a_wrong_name(place: Place) -> Any:
    return ("parts", place.base, "--projector", "model.multi_modal_projektor")


def of_two_layouts(place: Place) -> Any:
    tiny_vlm("kimi_k25").save_pretrained(place.base)
    moved(tiny_vlm("kimi_k25")).save_pretrained(str(place.tuned), save_original_format=False)
    return place.repair


def both_as_in_memory(place: Place) -> Any:
    for folder in (place.base, place.tuned):
        model = model_of(folder)
        shutil.rmtree(folder)
        model.save_pretrained(str(folder), save_original_format=False)
    return place.repair


WAYS_OUT: dict[str, Step] = {
    "pickled model": (
        "load them with from_pretrained and write them with save_pretrained",
        with_pickled_model,
        (by_from_pretrained,),
    ),
    "pickled adapter": ("load it with PeftModel.from_pretrained and write it", with_pickled_adapter, (by_peft,)),
    "factors inside": (
        "merge them first (merge_and_unload, save_pretrained), or give the adapter's own folder",
        with_factors_inside,
        (by_the_adapters_folder, by_merging),
    ),
    "a tensor missing": (
        "run textanchor diff to see what it holds",
        without_a_tensor,
        (lambda place: place.diff,),
    ),
    "said to be quantised": ("remove that entry", said_to_be_quantised, (without_that_entry,)),
    "no config.json": ("copy that of the base", without_config, (with_the_bases_config,)),
    "another config.json": (
        "put the config.json there that was saved with these weights",
        with_another_config,
        (with_the_saved_config,),
    ),
    "projector frozen": (
        "if you froze it, say --frozen projector",
        projector_frozen,
        (lambda place: (*place.diff, "--strict", "--frozen", "projector"),),
    ),
    "adapter as base": ("give the model's own folder", adapter_as_base, (lambda place: place.diff,)),
    "index of another form": ("or remove it", index_of_another_form, (without_the_index,)),
    "projector by a wrong name": (
        "did you mean model.multi_modal_projector",
        projector_by_a_wrong_name,
        (lambda place: ("parts", place.base, "--projector", "model.multi_modal_projector"),),
    ),
    "two layouts": (
        "save_pretrained(..., save_original_format=False), give those",
        of_two_layouts,
        (both_as_in_memory,),
    ),
}
"""Fault -> the advice, what makes it and asks, and each way out that the advice names, asking again."""


@pytest.mark.parametrize("fault", WAYS_OUT)
def test_a_way_out_works_for_the_input_that_it_is_named_for(fault: str, tmp_path: Path) -> None:
    advice, make, ways = WAYS_OUT[fault]
    place = Place(tmp_path)
    refused = run(*make(place))
    assert refused.exit_code in (2, 3), refused.output
    assert advice in refused.output
    assert not place.out.exists()
    for way in ways:
        shutil.rmtree(place.out, ignore_errors=True)
        done = run(*way(place))
        assert done.exit_code == 0, done.output


def test_every_command_and_option_that_a_message_names_exists(repository: Path) -> None:
    verbs = get_command(main.app).commands  # pyright: ignore[reportAttributeAccessIssue]
    options = {
        name
        for verb in verbs.values()
        for parameter in verb.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    named = 0
    for package in ("diffs", "repairs", "vlm", "evaluation", "cli"):
        for path in (repository / "src" / "textanchor" / package).rglob("*.py"):
            if path.name == "lmms.py":  # names another program's command
                continue
            text = path.read_text()
            commands, given = COMMAND.findall(text), OPTION.findall(text)
            assert set(commands) <= set(verbs), path
            assert set(given) <= options | {"--debug", "--version", "--help"}, path
            named += len(commands) + len(given)
    assert named > 15
