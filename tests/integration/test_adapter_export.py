"""The export as PEFT's LoRA with the projector: loaded by PEFT alone it is the model that was trained."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_models import tiny_vlm
from helpers.tiny_runs import run_config
from textanchor.errors import ConfigError, ModelError
from textanchor.training import adapter_export
from textanchor.training.adapt import adapt
from textanchor.training.config import PartConfig, PartsConfig
from textanchor.training.trainable import set_up_training
from textanchor.training.updates import StartWeights

FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "peft": {},
    "peft_everywhere": {
        "parts": {
            "projector": {"train": "lora", "learning_rate": 1e-2, "rank": 2},
            "language_model": {"train": "lora", "learning_rate": 1e-2},
            "vision_tower": {"train": "lora", "rank": 3},
        }
    },
}
LOADER = """\
import sys, torch
from transformers import AutoModelForImageTextToText
base, folder, is_adapter = sys.argv[1], sys.argv[2], sys.argv[3] == "True"
model = AutoModelForImageTextToText.from_pretrained(base if is_adapter else folder)
if is_adapter:
    from peft import PeftModel
    model = PeftModel.from_pretrained(model, folder)
assert not any(name.partition(".")[0] == "textanchor" for name in sys.modules)
inputs = torch.load(sys.argv[4], weights_only=True)
with torch.no_grad():
    print(model.eval()(**inputs).logits.double().square().sum().item())
"""


@pytest.mark.parametrize("form", FORMS)
def test_it_loads_in_a_new_process_without_us(form: str, tmp_path: Path) -> None:
    model, processor = tiny_llava_with_processor()
    model.save_pretrained(tmp_path / "base")
    export = form.partition("_")[0]
    result = adapt(run_config(tmp_path / "out", export=export, **FORMS[form]), model=model, processor=processor)
    assert result.audit.reload_max_difference <= 1e-5
    inputs = {"input_ids": torch.tensor([[4, 5, *[3] * 16, 6, 7]]), "pixel_values": torch.randn(1, 3, 32, 32)}
    torch.save(inputs, tmp_path / "inputs.pt")
    arguments = [tmp_path / "base", tmp_path / "out", export == "peft", tmp_path / "inputs.pt"]
    command = [sys.executable, "-c", LOADER, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    with torch.no_grad():
        expected = result.model(**inputs).logits.double().square().sum().item()
        before = tiny_llava_with_processor()[0](**inputs).logits.double().square().sum().item()
    assert float(done.stdout) == pytest.approx(expected, rel=1e-5)
    assert abs(before - expected) > 1e-3 * expected
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert ("adapter_model.safetensors" in names) == (export == "peft") == ("model.safetensors" not in names)


def test_what_peft_would_lose_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        kept = {name: t for name, t in tensors.items() if not name.endswith("linear_2.bias")}
        save_file(kept | {"base_model.model.model.multi_modal_projector.linear_2.bias": torch.ones(32)}, path, metadata)

    monkeypatch.setattr(adapter_export, "save_file", forgetful)
    model, processor = tiny_llava_with_processor()
    with pytest.raises(ModelError, match=r"1 tensors .*linear_2\.bias"):
        adapt(run_config(tmp_path / "out", export="peft"), model=model, processor=processor)
    assert list(tmp_path.iterdir()) == []


def test_the_projector_is_saved_whole_or_under_lora_never_both(tmp_path: Path) -> None:
    for name in ("peft", "peft_everywhere"):
        model, processor = tiny_llava_with_processor()
        adapt(run_config(tmp_path / name, export="peft", **FORMS[name]), model=model, processor=processor)
        config = json.loads((tmp_path / name / "adapter_config.json").read_text())
        keys = [key for key in load_file(tmp_path / name / "adapter_model.safetensors") if "projector" in key]
        assert config["modules_to_save"] == (["model.multi_modal_projector"] if name == "peft" else None)
        assert all((".lora_" in key) == (name == "peft_everywhere") for key in keys)


def test_a_bare_parameter_cannot_be_saved_beside_lora() -> None:
    parts = set_up_training(tiny_vlm("llava_next"), PartsConfig(), seed=0)
    with pytest.raises(ModelError, match=r"image_newline is a parameter.*export: plain"):
        adapter_export.saved_modules(parts, StartWeights(parts).full)


def test_lora_inside_what_is_saved_whole_is_refused() -> None:
    config = PartsConfig(projector=PartConfig(train="lora"), vision_tower=PartConfig(train="full"))
    parts = set_up_training(tiny_vlm("qwen2_vl"), config, seed=0)
    with pytest.raises(ModelError, match=r"merger\.mlp\.0 has LoRA inside model\.visual"):
        adapter_export.saved_modules(parts, StartWeights(parts).full)


FULL = {"projector": {"train": "full"}, "language_model": {"train": "full"}}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"parts": FULL}, "needs LoRA that starts at zero"),
        ({"parts": {"projector": {"train": "lora"}, "language_model": {"train": "full"}}}, "may be tied to its head"),
        ({"method": {"name": "corda"}}, "method corda"),
        ({"method": {"name": "lora_null"}}, "method lora_null"),
        ({"method": {"name": "osf"}, "parts": FULL}, "method osf"),
        ({"method": {"name": "zero_shot"}, "parts": None}, "method zero_shot"),
    ],
)
def test_what_it_cannot_hold_is_refused(changes: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        run_config(tmp_path / "out", export="peft", **changes)
