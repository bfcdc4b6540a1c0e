"""Folders with several sets of weights, or weights under other names: diff compares what from_pretrained loads."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

import textanchor as ta
from helpers.tiny_models import tiny_vlm
from textanchor.vlm.loading import empty_vlm, load_vlm

INDEX = "model.safetensors.index.json"
PROJECTOR = "model.multi_modal_projector.linear_1.weight"
TEXT_LINEARS = r".*language_model.*\.(q_proj|v_proj)"


def tuned_model() -> Any:
    """Another projector and other queries of the language model than `base` has."""
    model = tiny_vlm("llava")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "multi_modal_projector" in name or ("language_model" in name and "q_proj" in name):
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_vlm("llava").save_pretrained(folder)
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """The tuned model in shards with their index."""
    tuned_model().save_pretrained(tmp_path / "shards", max_shard_size="30KB")
    return tmp_path / "shards"


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForImageTextToText.from_pretrained(folder).state_dict()


def differing(base: Path, folder: Path) -> set[str]:
    """Names of the tensors that differ once Transformers has loaded both."""
    first, second = loaded(base), loaded(folder)
    return {name for name in first if not torch.equal(first[name], second[name])}


def base_file_beside(folder: Path, base: Path) -> None:
    shutil.copyfile(base / "model.safetensors", folder / "model.safetensors")


def tuned_file_over_base_shards(folder: Path, base: Path) -> None:
    tiny_vlm("llava").save_pretrained(folder, max_shard_size="30KB")
    tuned_model().save_pretrained(folder.parent / "whole")
    shutil.copyfile(folder.parent / "whole" / "model.safetensors", folder / "model.safetensors")


def named_by_config(folder: Path, base: Path) -> None:
    base_file_beside(folder, base)
    (folder / INDEX).rename(folder / "trained.safetensors.index.json")
    change_json(
        folder / "config.json", lambda values: values | {"transformers_weights": "trained.safetensors.index.json"}
    )


def shards_in_a_folder_within(folder: Path, base: Path) -> None:
    (folder / "shards").mkdir()
    for shard in folder.glob("model-*.safetensors"):
        shard.rename(folder / "shards" / shard.name)
    change_index(folder, lambda shard: f"shards/{shard}")


def change_json(path: Path, change: Callable[[dict], dict]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def change_index(folder: Path, change: Callable[[str], Any]) -> None:
    def changed(values: dict) -> dict:
        return values | {"weight_map": {name: change(file) for name, file in values["weight_map"].items()}}

    change_json(folder / INDEX, changed)


LAYOUTS = [
    base_file_beside,
    tuned_file_over_base_shards,
    named_by_config,
    shards_in_a_folder_within,
]


@pytest.mark.parametrize("arrange", LAYOUTS)
def test_what_transformers_loads_is_compared(arrange: Callable[[Path, Path], None], base: Path, shards: Path) -> None:
    arrange(shards, base)
    report = ta.diff(base, shards)
    changed = differing(base, shards)
    assert {row.name for row in report.tensors if row.is_changed} == changed
    assert bool(changed) is not report.is_lost
    assert report.tensor(PROJECTOR).status == ("changed" if changed else "equal")


def test_what_is_passed_over_is_named_with_what_it_holds(base: Path, shards: Path) -> None:
    base_file_beside(shards, base)
    report = ta.diff(base, shards)
    assert report.verdict == (
        "nothing is changed: the tuned checkpoint holds the base's weights, your tuning was not saved; it may be in "
        "model-00001-of-00005.safetensors, which is not loaded"
    )
    sentence = next(finding.sentence for finding in report.findings if finding.kind == "files_passed_over")
    assert sentence.startswith(
        "from_pretrained reads model.safetensors and passes over model-00001-of-00005.safetensors ("
    )
    assert "tensors: " in sentence and "of the language model" in sentence
    assert sentence.endswith(", and 1 other file")


def without_index(folder: Path) -> None:
    (folder / INDEX).unlink()


def under_another_name(folder: Path) -> None:
    without_index(folder)
    for shard in folder.glob("model-*.safetensors"):
        shard.unlink()
    save_file(tuned_model().state_dict(), folder / "consolidated.safetensors")


def index_without_metadata(folder: Path) -> None:
    change_json(folder / INDEX, lambda values: {"weight_map": values["weight_map"]})


def index_that_is_a_list(folder: Path) -> None:
    change_json(folder / INDEX, lambda values: values | {"weight_map": list(values["weight_map"])})


def file_of_zeros_beside(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(bytes(40))


def bytes_after_the_last_tensor(folder: Path) -> None:
    with (folder / "model-00005-of-00005.safetensors").open("ab") as file:
        file.write(bytes(8))


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    "damage",
    [
        without_index,
        under_another_name,
        index_without_metadata,
        index_that_is_a_list,
        file_of_zeros_beside,
        bytes_after_the_last_tensor,
        without_config,
    ],
)
def test_a_folder_that_transformers_cannot_load_is_lost(
    damage: Callable[[Path], None], base: Path, shards: Path
) -> None:
    damage(shards)
    with pytest.raises(Exception):  # noqa: B017  whatever it raises
        loaded(shards)
    report = ta.diff(base, shards)
    assert report.is_lost and ("cannot load" in report.verdict or "incomplete" in report.verdict)
    with pytest.raises(ta.ModelError):
        ta.repair(shards, base, shards.parent / "out")
    assert not (shards.parent / "out").exists()


def test_shards_without_their_index_are_named(base: Path, shards: Path) -> None:
    without_index(shards)
    assert ta.diff(base, shards).verdict.startswith(
        "from_pretrained cannot load the folder: found model-00001-of-00005.safetensors, "
    )
    with pytest.raises(ta.ModelError, match=r"from_pretrained cannot load the base.*no model.safetensors.index.json"):
        ta.diff(shards, base)


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "{root}/outside.safetensors", "within/../../outside.safetensors"]
)
def test_no_verb_follows_an_index_out_of_its_folder(name: str, base: Path, shards: Path) -> None:
    shutil.copyfile(base / "model.safetensors", shards.parent / "outside.safetensors")
    change_index(shards, lambda _: name.format(root=shards.parent))
    for verb in (
        lambda: load_vlm(shards),
        lambda: empty_vlm(shards),
        lambda: ta.diff(base, shards),
        lambda: ta.diff(shards, base),
        lambda: ta.repair(shards, base, shards.parent / "out"),
        lambda: ta.repair(base, shards, shards.parent / "out"),
    ):
        with pytest.raises(ta.ModelError, match=rf"{INDEX}: leads to .*outside.safetensors, which is outside"):
            verb()


def test_pickles_that_transformers_would_take_are_refused(base: Path, shards: Path) -> None:
    without_index(shards)
    torch.save(tuned_model().state_dict(), shards / "pytorch_model.bin")
    with pytest.raises(
        ta.ModelError, match=r"found none that from_pretrained reads, but pickled weights \(pytorch_model"
    ):
        ta.diff(base, shards)
    with pytest.raises(ta.ModelError, match=r"pickled weights \(pytorch_model.bin\)"):
        load_vlm(shards)


# --- what trainers leave beside an adapter ---

HELD = {"base_model.model.model.multi_modal_projector.linear_1.weight": torch.zeros(32, 24)}
TOWER = {"vision_tower.encoder.layers.0.mlp.fc1.weight": torch.zeros(32, 24)}


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    model: Any = get_peft_model(tiny_vlm("llava"), LoraConfig(r=4, target_modules=TEXT_LINEARS))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.02)
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    "name",
    [
        "non_lora_trainables.bin",
        "non_lora_state_dict.bin",
        "mm_projector.bin",
        "projector.pt",
        "connector.ckpt",
        "rest.pth",
    ],
)
@pytest.mark.parametrize("wrap", [lambda held: held, lambda held: {"module": held, "epoch": 1}])
def test_a_pickled_projector_beside_an_adapter(
    name: str, wrap: Callable[[dict], dict], base: Path, adapter: Path
) -> None:
    torch.save(wrap(HELD), adapter / name)
    report = ta.diff(base, adapter)
    assert report.verdict == (
        f"the projector is unchanged: your tuning may be in {name}, which is pickled, was not read"
    )
    sentence = next(finding.sentence for finding in report.findings if finding.kind == "files_passed_over")
    assert sentence == (
        f"PEFT reads adapter_model.safetensors and passes over {name} (tensors: 1 of the projector; pickled)"
    )


@pytest.mark.parametrize("name", ["vit.safetensors", "model.safetensors", "value_head.safetensors"])
def test_other_safetensors_do_not_make_an_adapter_a_model(name: str, base: Path, adapter: Path) -> None:
    save_file(TOWER, adapter / name)
    report = ta.diff(base, adapter)
    assert report.tensor("model.language_model.layers.0.self_attn.q_proj.weight").status == "changed"
    sentence = next(finding.sentence for finding in report.findings if finding.kind == "files_passed_over")
    assert sentence.endswith(f"passes over {name} (tensors: 1 of the vision tower)")
    assert "--frozen projector" in report.verdict, "a tower is no place to look for the projector"


def test_states_of_the_trainer_are_no_weights(base: Path, adapter: Path) -> None:
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "scaler.pt"):
        torch.save({"state": {0: {"exp_avg": torch.zeros(2)}}, "cpu": torch.zeros(2)}, adapter / name)
    assert "files_passed_over" not in {finding.kind for finding in ta.diff(base, adapter).findings}


class Harmful:
    """Unpickling it runs a command."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.place,))


@pytest.mark.parametrize("in_zip", [True, False])
def test_nothing_in_a_pickle_is_run(in_zip: bool, base: Path, adapter: Path) -> None:
    place = adapter.parent / "run"
    if in_zip:
        torch.save({"a": Harmful(place)}, adapter / "mm_projector.bin")
    else:
        (adapter / "mm_projector.bin").write_bytes(pickle.dumps(Harmful(place)))
    report = ta.diff(base, adapter)
    assert "mm_projector.bin, which is pickled, was not read" in report.verdict
    assert "mm_projector.bin (no tensors that can be listed; pickled)" in str(report)
    assert not place.exists()


def test_a_model_with_an_adapter_beside_it_is_a_model(base: Path, adapter: Path, tmp_path: Path) -> None:
    both = shutil.copytree(base, tmp_path / "both")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(adapter / name, both / name)
    assert ta.diff(base, both).verdict.startswith("LoRA is not merged")
    assert load_file(both / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()
