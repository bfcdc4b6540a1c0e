"""What lies in a checkpoint beside, or in place of, the tensors that Transformers builds."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import textanchor as ta
from helpers.tiny_models import tiny_vlm


def with_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    file = folder / "model.safetensors"
    save_file(load_file(file) | tensors, file, metadata={"format": "pt"})
    return folder


UNBUILT = {
    "qwen3_5": {"mtp.fc.weight": torch.ones(3, 4), "mtp.norm.weight": torch.ones(4)},
    "llava": {"language_model.model.layers.2.mlp.up_proj.weight": torch.ones(3, 4)},
    "paligemma": {"model.vision_tower.head.probe": torch.ones(1, 1, 4)},
}


@pytest.mark.parametrize("family", UNBUILT)
def test_only_what_transformers_builds_is_compared(family: str, tmp_path: Path) -> None:
    model, unbuilt = tiny_vlm(family), UNBUILT[family]
    model.save_pretrained(tmp_path / "base")
    with torch.no_grad():
        for parameter in ta.find_parts(model).parameters_of("projector").values():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "tuned")
    plain = ta.diff(tmp_path / "base", tmp_path / "tuned")

    base = with_tensors(tmp_path / "base", unbuilt)
    report = ta.diff(base, tmp_path / "tuned")
    first, *others = report.findings
    assert (first.kind, first.severity) == ("unbuilt_tensors_dropped", "warning")
    assert next(iter(unbuilt)) in first.sentence
    assert [finding.kind for finding in others] == [finding.kind for finding in plain.findings]
    assert report.tensors == plain.tensors

    changed = {name: tensor + 1 for name, tensor in unbuilt.items()}
    report = ta.diff(base, with_tensors(tmp_path / "tuned", changed))
    assert report.verdict == plain.verdict
    assert [f.kind for f in report.findings] == [*(f.kind for f in plain.findings), "unbuilt_tensors"]
    assert report.tensors == plain.tensors


def test_what_only_the_tuned_one_has_is_unknown(tmp_path: Path) -> None:
    tiny_vlm("llava").save_pretrained(tmp_path / "base")
    tuned = with_tensors(shutil.copytree(tmp_path / "base", tmp_path / "tuned"), {"extra.weight": torch.ones(2)})
    assert [f.kind for f in ta.diff(tmp_path / "base", tuned).findings if f.severity == "warning"] == [
        "unexpected_tensors"
    ]
