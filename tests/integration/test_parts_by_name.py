"""Families whose projector nobody finds: what needs none goes on, and what does takes it by name."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from typer.testing import CliRunner

import textanchor as ta
from helpers.tiny_models import tiny_vlm
from textanchor.cli import main
from textanchor.vlm.families import FAMILIES

PROJECTORS = {
    "qwen2_5_vl": ["model.visual.merger"],
    "glm4v": ["model.visual.downsample", "model.visual.merger"],
    "qwen3_vl": ["model.visual.deepstack_merger_list", "model.visual.merger"],
}


@pytest.fixture(params=PROJECTORS)
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delitem(FAMILIES, request.param)
    return request.param


@pytest.fixture
def pair(family: str, tmp_path: Path) -> tuple[Path, Path]:
    """A model without a processor, and one with other queries and another projector."""
    model = tiny_vlm(family)
    model.save_pretrained(tmp_path / "base")
    paths = (*PROJECTORS[family], "q_proj")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(path in name for path in paths):
                parameter.add_(0.01 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "tuned")
    return tmp_path / "base", tmp_path / "tuned"


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main.app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def named(family: str) -> list[str]:
    return [word for path in PROJECTORS[family] for word in ("--projector", path)]


def test_diff_goes_on_and_its_way_out_works(family: str, pair: tuple[Path, Path]) -> None:
    report = ta.diff(*pair)
    assert report.verdict.startswith("whether the projector was saved is not known, as it was not found: ")
    assert "--projector for each" in report.verdict
    assert sum(row.is_changed for row in report.tensors) > 1
    assert not any(row.part == "projector" for row in report.tensors)

    report = ta.diff(*pair, projector=PROJECTORS[family])
    assert report.verdict.startswith("nothing was lost: changed are the projector by ")
    assert report.record["options"]["projector"] == PROJECTORS[family]
    code, output = run("diff", *pair, *named(family))
    assert code == 0 and "nothing was lost: changed are the projector by " in output


def test_repair_asks_only_where_parts_are_treated_differently(
    family: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    base, tuned = pair
    report = ta.repair(tuned, base, tmp_path / "half")
    changed = {row.name for row in ta.diff(*pair).tensors if row.is_changed}
    assert {row.name for row in report.tensors} == changed

    (tmp_path / "plan.yaml").write_text("interpolate: {projector: 0.0}\n")
    options = ("repair", tuned, "--base", base, "--plan", tmp_path / "plan.yaml")
    code, output = run(*options, "--out", tmp_path / "refused")
    assert code == 2 and "--projector for each" in " ".join(output.split())
    code, output = run(*options, "--out", tmp_path / "out", *named(family))
    assert code == 0
    left = ta.diff(base, tmp_path / "out", projector=PROJECTORS[family])
    assert {row.part for row in left.tensors if row.is_changed} == {"language_model"}


def test_parts_reads_the_configuration_alone(family: str, pair: tuple[Path, Path]) -> None:
    base, _ = pair
    (base / "model.safetensors").unlink()
    code, output = run("parts", base)
    assert code == 2 and "--projector for each" in " ".join(output.split())
    code, output = run("parts", base, *named(family))
    assert code == 0 and "named by the user" in output


def test_a_wrong_name_is_told_with_the_nearest(tmp_path: Path) -> None:
    tiny_vlm("llava").save_pretrained(tmp_path / "base")
    for call in (
        lambda: ta.diff(tmp_path / "base", tmp_path / "base", projector="multi_modal_projector"),
        lambda: ta.repair(tmp_path / "base", tmp_path / "base", tmp_path / "out", projector="multi_modal_projector"),
    ):
        with pytest.raises(ta.ModelError, match=r"projector='multi_modal_projector'.*did you mean model.multi_modal"):
            call()
    state = tiny_vlm("llava").state_dict()
    with pytest.raises(ta.ConfigError, match="parts can be named only where the model is known"):
        ta.diff(state, state, vision_tower="model.vision_tower")


def test_a_plain_repair_of_an_adapter_needs_no_processor(tmp_path: Path) -> None:

    tiny_vlm("llava").save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "preprocessor_config.json").write_text("{}")
    model = get_peft_model(tiny_vlm("llava"), LoraConfig(target_modules=["down_proj"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    ta.repair(tmp_path / "adapter", tmp_path / "base", tmp_path / "out")
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()
    assert not ta.diff(tmp_path / "base", tmp_path / "out", frozen=["projector"]).is_lost


@pytest.mark.parametrize("model_type", ["llama", "no_such_type"])
def test_what_no_model_class_knows_can_still_be_compared_by_names(model_type: str, tmp_path: Path) -> None:

    tiny_vlm("llava").save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ta.ModelError, match=r"give state dicts: ta.diff\(base_tensors, tuned_tensors\) in Python"):
        ta.diff(tmp_path / "base", tmp_path / "base")
    state = load_file(tmp_path / "base" / "model.safetensors")
    assert ta.diff(state, state).findings[0].kind == "nothing_changed"
