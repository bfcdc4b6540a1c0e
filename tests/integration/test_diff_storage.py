"""What lies in a checkpoint beside, or in place of, the tensors that Transformers builds."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

import textanchor as ta
from helpers.quantized import quantize_by_layer, quantize_by_subclass
from helpers.stored_quantised import bnb_4bit, bnb_8bit, float8, stored
from helpers.tiny_models import tiny_vlm
from textanchor.diffs.merges import MergeSums
from textanchor.diffs.pair import Pair
from textanchor.vlm.loading import load_model


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


BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [16, 16]}
KINDS: dict[str, tuple[Callable[[torch.Tensor], dict], dict]] = {
    "nf4": (bnb_4bit, BNB),
    "nf4 nested": (lambda weight: bnb_4bit(weight, nested=True), BNB),
    "fp4 in bfloat16": (lambda weight: bnb_4bit(weight, "fp4", storage=torch.bfloat16), BNB),
    "int8": (bnb_8bit, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
    "float8 blocks": (lambda weight: float8(weight, (weight.shape[0] // 16, weight.shape[1] // 16)), FP8),
    "float8 rows": (
        lambda weight: float8(weight, (weight.shape[0], 1), scale="_scale"),
        {"quant_method": "fbgemm_fp8"},
    ),
    "float8 whole": (lambda weight: float8(weight, (1, 1)), {"quant_method": "fp8", "weight_block_size": None}),
}


def is_quantised(name: str) -> bool:
    return "language_model" in name and name.endswith("proj.weight")


def quantised(folder: Path, to: Path, kind: str) -> Path:
    """A copy whose language model is stored in that kind."""
    encode, settings = KINDS[kind]
    shutil.copytree(folder, to)
    tensors = {}
    for name, values in load_file(to / "model.safetensors").items():
        tensors |= stored(name, encode(values)) if is_quantised(name) else {name: values}
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return to


@pytest.fixture
def base(tmp_path: Path) -> Path:
    tiny_vlm("llava", dtype=torch.bfloat16).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def moved(base: Path, to: Path, names: str, by: float) -> Path:
    shutil.copytree(base, to)
    torch.manual_seed(1)
    tensors = load_file(to / "model.safetensors")
    chosen = {name: values for name, values in tensors.items() if re.search(names, name)}
    return with_tensors(to, {name: values + by * torch.randn_like(values) for name, values in chosen.items()})


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantised_copy_is_the_same_model(kind: str, base: Path, tmp_path: Path) -> None:
    small, name = quantised(base, tmp_path / "small", kind), kind.split()[0]
    for pair in ((base, small), (small, base)):
        report = ta.diff(*pair)
        assert report.findings[0].kind == "nothing_changed"
        assert (
            f"nothing is changed beyond the rounding from {'bfloat16' if pair[0] == base else name}" in report.verdict
        )
        assert {row.name for row in report.tensors if row.status == "rounding"} == {
            row.name for row in report.tensors if is_quantised(row.name)
        }
    assert ta.diff(small, small).verdict.startswith("nothing is changed: ")


@pytest.mark.parametrize("kind", KINDS)
def test_tuning_is_seen_through_the_quantisation(kind: str, base: Path, tmp_path: Path) -> None:
    projector = moved(base, tmp_path / "projector", "multi_modal_projector", 0.01)
    report = ta.diff(base, quantised(projector, tmp_path / "small", kind))
    assert report.verdict.startswith("nothing was lost: changed is the projector by ")
    assert not any(row.is_changed and is_quantised(row.name) for row in report.tensors)

    text = moved(base, tmp_path / "text", r"language_model.*q_proj", 0.05)
    report = ta.diff(base, quantised(text, tmp_path / "small_text", kind), frozen=["projector"])
    plain = ta.diff(base, text)
    for row in report.tensors:
        assert row.is_changed == plain.tensor(row.name).is_changed
        if row.is_changed:
            assert row.relative == pytest.approx(plain.tensor(row.name).relative, rel=0.1)
    name = "float8_e4m3fn" if "float8" in kind else kind.split()[0]
    expected = f"the sizes of changes include what the rounding to {name} makes"
    assert expected in [finding.sentence for finding in report.findings]


@pytest.mark.parametrize("kind", ["float8 blocks", "float8 whole"])
def test_8_bit_floats_are_what_transformers_loads(kind: str, base: Path, tmp_path: Path) -> None:
    """On a CPU it makes bfloat16 of them by itself; with the option that we name it saves them so."""
    small = quantised(base, tmp_path / "small", kind)
    model = AutoModelForImageTextToText.from_pretrained(small)
    pair, loaded = Pair(small, base), model.state_dict()
    for name, stored_name in pair.base_names.stored_names.items():
        torch.testing.assert_close(pair.base.whole(stored_name).bfloat16(), loaded[name].bfloat16(), rtol=1e-2, atol=0)
    model.save_pretrained(str(tmp_path / "plain"), save_original_format=False)
    ta.repair(moved(base, tmp_path / "tuned", "projector", 0.01), tmp_path / "plain", tmp_path / "out")


@pytest.mark.parametrize("kind", ["nf4", "int8", "float8 blocks"])
def test_an_adapter_on_a_quantised_base(kind: str, base: Path, tmp_path: Path) -> None:
    small = quantised(base, tmp_path / "small", kind)
    model = get_peft_model(tiny_vlm("llava"), LoraConfig(r=4, target_modules=r".*language_model.*q_proj"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.02)
    model.save_pretrained(tmp_path / "adapter")
    on_plain, on_small = (ta.diff(given, tmp_path / "adapter", frozen=["projector"]) for given in (base, small))
    assert on_small.verdict.startswith("nothing was lost: changed is the language model by ")
    for row in on_small.tensors:
        assert row.update_energy == pytest.approx(on_plain.tensor(row.name).update_energy, rel=1e-4)
    message = (
        "is quantised .*, so it cannot be changed exactly; give the model as it was before, or .*save_original_format"
    )
    for given in ((tmp_path / "adapter", small), (small, base), (base, small)):
        with pytest.raises(ta.ModelError, match=message):
            ta.repair(*given, tmp_path / "out")


# so small an update that a least-squares ratio says nothing of it
SMALL_MERGES = {"nf4": 0.01, "int8": 0.004, "float8 blocks": 0.008}


def merged_beside(kind: str, base: Path, tmp_path: Path) -> Path:
    """A base stored in that kind, an adapter, and the plain base with it merged."""
    model = get_peft_model(load_model(base), LoraConfig(r=4, target_modules=r".*language_model.*q_proj"))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=SMALL_MERGES[kind])
    model.save_pretrained(tmp_path / "adapter")
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    return quantised(base, tmp_path / "small", kind)


@pytest.mark.parametrize("kind", SMALL_MERGES)
def test_a_merge_beside_a_quantised_base(kind: str, base: Path, tmp_path: Path) -> None:
    """The update is smaller than what quantisation moves, and is in the weights all the same, or is not."""
    small = merged_beside(kind, base, tmp_path)
    for folder, expected in (
        ("merged", "; the adapter's update is in the weights, once"),
        ("base", "LoRA is not merged: the adapter's update is in none of its 2 weights"),
    ):
        report = ta.diff(small, tmp_path / folder, adapter=tmp_path / "adapter", frozen=["projector"])
        assert expected in report.verdict


@pytest.mark.parametrize("kind", SMALL_MERGES)
def test_a_merge_beside_a_quantised_base_is_told_by_the_steps_of_its_codes(
    kind: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without them the same merge is not recognised, so the test above can fail."""
    small = merged_beside(kind, base, tmp_path)
    add = MergeSums.add
    monkeypatch.setattr(MergeSums, "add", lambda self, start, first, second, _: add(self, start, first, second, None))
    report = ta.diff(small, tmp_path / "merged", adapter=tmp_path / "adapter", frozen=["projector"])
    assert "it was merged in part, or another one was" in report.verdict


def test_codes_that_config_does_not_announce_are_lost(base: Path, tmp_path: Path) -> None:
    small = quantised(base, tmp_path / "small", "nf4")
    shutil.copyfile(base / "config.json", small / "config.json")
    expected = "config.json has no quantization_config, so Transformers takes the codes of nf4 for weights"
    assert ta.diff(base, small).verdict == f"the tuned checkpoint is incomplete: {expected}"
    with pytest.raises(ta.ModelError, match=expected):
        ta.diff(small, base)


def integers(num_rows: int, num_columns: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.ones(num_rows, num_columns, dtype=dtype)


PACKED = {"qweight": integers(4, 32), "qzeros": integers(1, 4), "scales": torch.ones(1, 32)}
GPTQ = PACKED | {"g_idx": integers(1, 32)[0]}
FOREIGN: dict[str, tuple[dict[str, torch.Tensor], dict, str]] = {
    "gptq": (
        PACKED | {"g_idx": integers(1, 32)[0]},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        "gptq",
    ),
    "gptq unsaid": (PACKED | {"g_idx": integers(1, 32)[0]}, {}, "GPTQ"),
    "awq": (PACKED, {"quantization_config": {"quant_method": "awq", "bits": 4}}, "awq"),
    "awq unsaid": (PACKED, {}, "GPTQ or AWQ"),
    "torchao": (
        {"_weight_qdata": integers(32, 32, torch.int8), "_weight_scale": torch.ones(32, 1)},
        {"quantization_config": {"quant_method": "torchao"}},
        "torchao",
    ),
    "torchao in 8-bit floats": (
        {"_weight_qdata": torch.ones(32, 32).to(torch.float8_e4m3fn), "_weight_scale": torch.ones(32, 1)},
        {},
        "torchao",
    ),
    "mlx": (
        {"weight": integers(32, 4, torch.uint32), "scales": torch.ones(32, 1), "biases": torch.ones(32, 1)},
        {"quantization": {"group_size": 32, "bits": 4}, "quantization_config": {"group_size": 32, "bits": 4}},
        "MLX",
    ),
    "compressed-tensors": (
        {"weight_packed": integers(32, 4), "weight_scale": torch.ones(32, 1), "weight_shape": torch.tensor([32, 32])},
        {"quantization_config": {"quant_method": "compressed-tensors"}},
        "compressed-tensors",
    ),
    "quanto": ({"weight._data": integers(32, 32, torch.int8), "weight._scale": torch.ones(32, 1)}, {}, "quanto"),
    "something new": ({"weight": integers(32, 8, torch.uint8)}, {}, "an unknown format"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_formats_are_refused_by_name(kind: str, base: Path, tmp_path: Path) -> None:
    parts, settings, method = FOREIGN[kind]
    folder = shutil.copytree(base, tmp_path / "foreign")
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if is_quantised(name)]:
        del tensors[name]
        tensors |= {f"{name.removesuffix('.weight')}.{part}": values.clone() for part, values in parts.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    message = f"foreign: its weights are quantised by {re.escape(method)} .*; give the model as it was before"
    for call in (
        lambda: ta.diff(base, folder),
        lambda: ta.diff(folder, base),
        lambda: ta.repair(folder, base, tmp_path / "out"),
    ):
        with pytest.raises(ta.ModelError, match=message):
            call()


def test_a_state_dict_of_quantised_weights(base: Path, tmp_path: Path) -> None:
    small = load_file(quantised(base, tmp_path / "small", "nf4") / "model.safetensors")
    assert ta.diff(load_file(base / "model.safetensors"), small).findings[0].kind == "nothing_changed"
    by_subclass, by_layer = tiny_vlm("llava"), tiny_vlm("llava")
    quantize_by_subclass(by_subclass.model.language_model.layers[0].mlp.up_proj)
    assert sum(row.is_changed for row in ta.diff(tiny_vlm("llava"), by_subclass).tensors) == 1
    quantize_by_layer(by_layer.model.language_model.layers[0].mlp.up_proj)
    with pytest.raises(ta.ModelError, match="quantised by an unknown format"):
        ta.diff(tiny_vlm("llava"), by_layer)


def test_parts_that_do_not_fit_are_named(base: Path, tmp_path: Path) -> None:
    small = quantised(base, tmp_path / "small", "nf4")
    tensors = load_file(small / "model.safetensors")
    absmax = next(name for name in tensors if name.endswith("absmax"))
    with_tensors(small, {absmax: torch.ones(3)})
    with pytest.raises(ta.ModelError, match=r"is quantised \(nf4\), and its tensors do not fit together"):
        ta.diff(base, small)
    with_tensors(small, {absmax.replace("absmax", "quant_state.bitsandbytes__nf4"): torch.zeros(9, dtype=torch.uint8)})
    with pytest.raises(
        ta.ModelError, match=r"is quantised by bitsandbytes \(nf4\), and .*should say its shape as JSON"
    ):
        ta.diff(base, small)


def test_types_that_torch_lacks_are_named(base: Path, tmp_path: Path) -> None:
    """4-bit floats: the file is sound, and is not called cut off."""
    folder = shutil.copytree(base, tmp_path / "float4")
    header = json.dumps({"x": {"dtype": "F4", "shape": [2, 4], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ta.ModelError, match=r"x is quantised, stored as F4, which is not read; known are"):
        ta.diff(base, folder)
