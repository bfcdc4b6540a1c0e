"""Adapters of every kind: diff and repair say what PEFT makes of the base, or refuse the kind by its name."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import KasaConfig
from safetensors.torch import load_file, save_file

import textanchor as ta
from helpers.tiny_chat import tiny_chat_model
from helpers.tiny_models import tiny_vlm
from textanchor.vlm.loading import load_model

TEXT_LINEARS = r".*language_model.*\.(q_proj|v_proj|down_proj)"
pytestmark = [
    pytest.mark.filterwarnings("ignore::peft.utils.warning.PeftWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to True:UserWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),
    pytest.mark.filterwarnings("ignore:lora with eva initialization:UserWarning"),
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    model, processor = tiny_chat_model("llava")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def trained(base: Path, config: Any, folder: Path, *, by: float = 0.02) -> Path:
    """An adapter's folder, all its parameters moved from where they started."""
    model = get_peft_model(load_model(base), config)
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    return PeftModel.from_pretrained(load_model(base), adapter).merge_and_unload().state_dict()


def lora(**options: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "target_modules": TEXT_LINEARS} | options)


KINDS = {
    "pissa": lora(init_lora_weights="pissa"),
    "olora": lora(init_lora_weights="olora"),
    "eva": lora(init_lora_weights="eva", eva_config=peft.EvaConfig()),
    "gaussian": lora(init_lora_weights="gaussian"),
    "mica": lora(init_lora_weights="mica"),
    "orthogonal": lora(init_lora_weights="orthogonal"),
    "kasa": lora(kasa_config=KasaConfig()),
    "dora": lora(use_dora=True),
    "rslora": lora(use_rslora=True, lora_alpha=16),
    "patterns": lora(alpha_pattern={"down_proj": 32}, rank_pattern={r"layers\.0\.self_attn\.q_proj": 2}),
    "fan_in_fan_out": lora(fan_in_fan_out=True),
    "lora_bias": lora(target_modules=r".*vision_tower.*(q_proj|v_proj)", lora_bias=True),
    "bias_all": lora(target_modules=["q_proj"], bias="all"),
    "excluded": lora(target_modules=["q_proj"], exclude_modules=r".*vision_tower.*"),
    "one_layer": lora(target_modules=["q_proj"], layers_to_transform=[1], layers_pattern="layers"),
    "all_linear": lora(target_modules="all-linear"),
    "convolution": lora(target_modules=["patch_embedding", "q_proj"]),
    "embedding": lora(target_modules=["embed_tokens", "down_proj"]),
    "parameters": lora(target_modules=[], target_parameters=["mlp.up_proj.weight", "linear_1.weight"]),
    "token_rows_beside": lora(target_modules=["down_proj"], trainable_token_indices=[1, 2]),
    "projector_saved": lora(modules_to_save=["multi_modal_projector"]),
    "adalora": peft.AdaLoraConfig(target_modules=TEXT_LINEARS, total_step=10, init_r=6, target_r=4),
    "hra": peft.HRAConfig(target_modules=TEXT_LINEARS, r=4),
    "ia3": peft.IA3Config(target_modules=TEXT_LINEARS, feedforward_modules=r".*down_proj"),
    "layer_norms": peft.LNTuningConfig(target_modules=r".*language_model.*norm"),
    "loha": peft.LoHaConfig(target_modules=TEXT_LINEARS, r=4),
    "lokr": peft.LoKrConfig(target_modules=TEXT_LINEARS, r=4),
    "oft": peft.OFTConfig(target_modules=TEXT_LINEARS, r=4, oft_block_size=0),
    "token_rows": peft.TrainableTokensConfig(token_indices=[1, 2], target_modules=["embed_tokens"]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_diff_and_repair_say_what_peft_makes_of_the_base(kind: str, base: Path, tmp_path: Path) -> None:
    adapter = trained(base, KINDS[kind], tmp_path / "adapter")
    plain, merged = load_model(base).state_dict(), merged_by_peft(base, adapter)
    moves = {name: float((merged[name] - plain[name]).norm()) for name in plain}
    report = ta.diff(base, adapter)
    assert {row.name for row in report.tensors if row.is_changed} == {name for name, move in moves.items() if move}
    for row in report.tensors:
        assert row.update_energy**0.5 == pytest.approx(moves[row.name], rel=1e-4)

    ta.repair(adapter, base, tmp_path / "out", plan=ta.RepairPlan(interpolate={"language_model": 0.5}), strength=0.0)
    written = load_model(tmp_path / "out").state_dict()
    for name, values in merged.items():
        torch.testing.assert_close(written[name], values, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["pissa", "dora", "oft"])
def test_a_merged_adapter_of_any_kind_is_recognised(kind: str, base: Path, tmp_path: Path) -> None:
    adapter = trained(base, KINDS[kind], tmp_path / "adapter")
    model = PeftModel.from_pretrained(load_model(base), adapter).merge_and_unload()
    model.save_pretrained(tmp_path / "merged")
    report = ta.diff(base, tmp_path / "merged", adapter=adapter, frozen=["projector"])
    assert report.verdict.endswith("; the adapter's update is in the weights, once")
    report = ta.diff(base, base, adapter=adapter)
    assert report.verdict == "LoRA is not merged: the adapter's update is in none of its 6 weights"


@pytest.mark.parametrize("by", [0.0005, 0.005])
@pytest.mark.parametrize("kind", ["plain", "pissa", "dora", "ia3", "oft"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_merge_in_half_precision_is_no_merge_in_part(
    kind: str, dtype: torch.dtype, by: float, base: Path, tmp_path: Path
) -> None:
    half = tmp_path / "half"
    load_model(base).to(dtype).save_pretrained(half)
    adapter = trained(base, KINDS.get(kind, lora()), tmp_path / "adapter", by=by)
    model = PeftModel.from_pretrained(load_model(half).to(dtype), adapter).merge_and_unload()
    model.save_pretrained(tmp_path / "merged")
    report = ta.diff(half, tmp_path / "merged", adapter=adapter, frozen=["projector"])
    name = str(dtype).removeprefix("torch.")
    assert not any(finding.kind == "lora_merged_in_part" for finding in report.findings)
    if (kind, by, name) == ("ia3", 0.0005, "bfloat16"):  # a factor of 1.0005 moves nothing there
        assert report.verdict.endswith("weights, or rounding to bfloat16 swallowed all of it")
    else:
        assert f"as far as {name} can hold it" in report.verdict and "rounding swallowed" in report.verdict


def test_what_rounding_swallows_whole_is_not_in_the_weights(base: Path, tmp_path: Path) -> None:
    half, model = tmp_path / "half", load_model(base).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.02 * parameter.sign())  # no entry so small that it would move
    model.save_pretrained(half)
    adapter = trained(base, lora(lora_alpha=0.01), tmp_path / "adapter", by=0.001)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(tmp_path / "merged")
    expected = "the adapter's update is in none of its 6 weights, or rounding to bfloat16 swallowed all of it"
    assert ta.diff(half, tmp_path / "merged", adapter=adapter).verdict == f"LoRA is not merged: {expected}"


def test_a_converted_pissa_adapter_is_a_plain_one(base: Path, tmp_path: Path) -> None:
    model = get_peft_model(load_model(base), KINDS["pissa"])
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "adapter", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    trained_weights = model.merge_and_unload().state_dict()
    plain = load_model(base).state_dict()
    row = next(
        row for row in ta.diff(base, tmp_path / "adapter").tensors if row.name.endswith("0.mlp.down_proj.weight")
    )
    move = float((trained_weights[row.name] - plain[row.name]).norm() / plain[row.name].norm())
    assert row.relative == pytest.approx(move, rel=1e-4)
    assert row.rank == 8


def with_settings(folder: Path, **settings: Any) -> Path:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return folder


REFUSED = {
    "lora_ga": ({"init_lora_weights": "lora_ga"}, "started as lora_ga"),
    "corda": ({"init_lora_weights": "corda"}, "started as corda"),
    "pissa_niter": ({"init_lora_weights": "pissa_niter_4"}, "made of the base by a random SVD"),
    "layers": ({"layer_replication": [[0, 2], [0, 2]]}, "layer_replication, so its model has other layers"),
    "alora": ({"alora_invocation_tokens": [1, 2]}, r"PEFT cannot merge this adapter \(LORA\) into .* give the folder"),
    "vera": ({"peft_type": "VERA"}, "PEFT cannot .* it"),
    "no_such_kind": ({"peft_type": "NEWER"}, r"PEFT cannot read adapter_config.json .*found peft_type 'NEWER'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_folder_cannot_tell_is_refused_by_name(kind: str, base: Path, tmp_path: Path) -> None:
    settings, message = REFUSED[kind]
    adapter = with_settings(trained(base, lora(), tmp_path / "adapter"), **settings)
    with pytest.raises(ta.ModelError, match=message):
        ta.diff(base, adapter)
    with pytest.raises(ta.ModelError, match=message):
        ta.repair(adapter, base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [3, [], "text", None])
def test_settings_that_are_no_mapping(content: Any, base: Path, tmp_path: Path) -> None:
    adapter = trained(base, lora(), tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text(json.dumps(content))
    with pytest.raises(ta.ModelError, match=r"adapter_config.json: expected a JSON object, found"):
        ta.diff(base, adapter)


def test_several_parameters_of_one_module(tmp_path: Path) -> None:
    """Experts that stand in one tensor: one adapter around another."""
    tiny_vlm("aria").save_pretrained(tmp_path / "in_memory", save_original_format=False)
    parameters = ["experts.gate_up_proj", "experts.down_proj"]
    adapter = trained(tmp_path / "in_memory", lora(target_modules=[], target_parameters=parameters), tmp_path / "a")
    plain, merged = load_model(tmp_path / "in_memory").state_dict(), merged_by_peft(tmp_path / "in_memory", adapter)
    changed = {name for name in plain if not torch.equal(plain[name], merged[name])}
    assert {name.rpartition(".")[2] for name in changed} == {"gate_up_proj", "down_proj"}
    report = ta.diff(tmp_path / "in_memory", adapter)
    assert {row.name for row in report.tensors if row.is_changed} == changed
    for name in changed:
        expected = float((merged[name] - plain[name]).norm())
        assert report.tensor(name).update_energy ** 0.5 == pytest.approx(expected, rel=1e-4)


def test_the_way_out_for_a_base_in_another_layout(tmp_path: Path) -> None:
    """Experts one by one in the file, fused in memory: what the error says to do is done."""
    model = tiny_vlm("kimi_k25")
    model.save_pretrained(tmp_path / "apart")
    config = lora(target_modules=[], target_parameters=["experts.gate_up_proj"])
    adapter = trained(tmp_path / "apart", config, tmp_path / "adapter")
    with pytest.raises(ta.ModelError, match=r"stored in another layout .*save_original_format=False"):
        ta.diff(tmp_path / "apart", adapter)
    load_model(tmp_path / "apart").save_pretrained(str(tmp_path / "fused"), save_original_format=False)
    changed = {row.name.rpartition(".")[2] for row in ta.diff(tmp_path / "fused", adapter).tensors if row.is_changed}
    assert changed == {"gate_up_proj"}

    tuned = PeftModel.from_pretrained(load_model(tmp_path / "fused"), adapter).merge_and_unload()
    tuned.save_pretrained(tmp_path / "tuned", save_original_format=False)
    for pair in ((tmp_path / "apart", tmp_path / "tuned"), (tmp_path / "tuned", tmp_path / "apart")):
        kinds = [finding.kind for finding in ta.diff(*pair).findings]
        assert "other_layout" in kinds and "missing_tensors" not in kinds
    with pytest.raises(ta.ModelError, match=r"is stored in another layout here .*save_original_format=False"):
        ta.repair(tmp_path / "tuned", tmp_path / "apart", tmp_path / "out")
    ta.repair(tmp_path / "tuned", tmp_path / "fused", tmp_path / "out")


def test_an_adapter_of_prompts_changes_no_weights(base: Path, tmp_path: Path) -> None:
    adapter = with_settings(trained(base, lora(), tmp_path / "adapter"), peft_type="PROMPT_TUNING")
    with pytest.raises(ta.ModelError, match="PROMPT_TUNING adds inputs and changes no weights"):
        ta.diff(base, adapter)


def test_an_unreadable_adapter_beside_the_weights_does_not_stop_the_diff(base: Path, tmp_path: Path) -> None:
    """Found by itself, not named: the weights can be compared all the same."""
    tuned = with_settings(trained(base, lora(), tmp_path / "tuned"), alora_invocation_tokens=[1, 2])
    merged = PeftModel.from_pretrained(load_model(base), trained(base, lora(), tmp_path / "other"))
    merged.merge_and_unload().save_pretrained(tuned)
    report = ta.diff(base, tuned, frozen=["projector"])
    assert "PEFT cannot merge this adapter (LORA) into" in next(
        f.sentence for f in report.findings if f.kind == "adapter_unread"
    )


@pytest.mark.parametrize(
    "change", [("model.language_model", "decoder"), ("base_model.model.", "base_model.model.base_model.model.")]
)
def test_tensors_that_peft_loads_into_nothing_are_lost(change: tuple[str, str], base: Path, tmp_path: Path) -> None:
    adapter = trained(base, lora(), tmp_path / "adapter")
    file = adapter / "adapter_model.safetensors"
    save_file({name.replace(*change): t for name, t in load_file(file).items()}, file, metadata={"format": "pt"})
    report = ta.diff(base, adapter)
    assert report.findings[0].kind == "adapter_not_applied" and report.is_lost
    assert report.verdict.startswith("PEFT applies none of the adapter's 12 tensors: it finds no place for ")


def test_settings_of_a_newer_peft_are_named(base: Path, tmp_path: Path) -> None:
    adapter = with_settings(trained(base, lora(), tmp_path / "adapter"), use_tomorrows_variant=True)
    assert any("leaves out: use_tomorrows_variant" in note for note in ta.diff(base, adapter).notes)


def test_the_callers_random_numbers_are_left_alone(base: Path, tmp_path: Path) -> None:
    adapter = trained(base, lora(), tmp_path / "adapter")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    ta.diff(base, adapter)
    assert torch.equal(torch.rand(3), expected)


def test_an_adapter_needs_a_model(base: Path, tmp_path: Path) -> None:
    adapter = trained(base, lora(), tmp_path / "adapter")
    with pytest.raises(ta.ModelError, match=r"give the base's folder with config.json"):
        ta.diff(tiny_vlm("llava").state_dict(), adapter)
    report = ta.diff(load_model(base), adapter, frozen=["projector"])
    assert not report.is_lost
