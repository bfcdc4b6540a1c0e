"""What people meet: each case is made with Transformers, PEFT or a plain loop, and gives its own one-line verdict."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import textanchor as ta
from helpers.html_reading import read_html
from helpers.tiny_models import tiny_vlm
from textanchor.cli import main
from textanchor.report.diff import render_diff

TEXT_LINEARS = r".*language_model.*\.(q_proj|v_proj|down_proj)"
UNCHANGED = "the projector is unchanged: your tuning was not saved (if you froze it, say --frozen projector)"


def saved(model: Any, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tiny_vlm("llava"), tmp_path_factory.mktemp("base"))


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(base, tmp_path / "tuned")


def with_lora(model: Any, targets: str | list[str] = TEXT_LINEARS, **options: Any) -> Any:
    """The model under LoRA whose update is not zero, as after training."""
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=4, target_modules=targets, **options))
    move(wrapped, "lora_B", by=0.02)
    return wrapped


def move(model: Any, word: str, by: float = 0.01) -> None:
    """What training would do to the parameters with that word in their names."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if word in name:
                parameter.add_(by * torch.randn_like(parameter))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def sharded(model: Any, folder: Path) -> Path:
    saved(model, folder, max_shard_size="30KB")
    assert (folder / "model.safetensors.index.json").is_file()
    return folder


def test_projector_trained_after_get_peft_model_is_not_saved(base: Path, tmp_path: Path) -> None:
    model = with_lora(tiny_vlm("llava"))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or "multi_modal_projector" in name)
    move(model, "multi_modal_projector")
    report = ta.diff(base, saved(model, tmp_path / "adapter"))
    assert report.verdict == UNCHANGED
    assert report.is_lost

    # and the model that is merged from that adapter later
    merged = PeftModel.from_pretrained(tiny_vlm("llava"), tmp_path / "adapter").merge_and_unload()
    assert ta.diff(base, saved(merged, tmp_path / "merged")).verdict == UNCHANGED

    # who froze it says so
    report = ta.diff(base, tmp_path / "merged", frozen=["projector"])
    assert report.verdict.startswith("nothing was lost: changed is the language model by")


def test_projector_saved_beside_lora_is_found(base: Path, tmp_path: Path) -> None:
    model = with_lora(tiny_vlm("llava"), modules_to_save=["multi_modal_projector"])
    move(model, "modules_to_save")
    report = ta.diff(base, saved(model, tmp_path / "adapter"))
    assert report.verdict.startswith("nothing was lost: changed are the projector by")
    assert report.tensor("model.multi_modal_projector.linear_1.weight").status == "changed"
    assert report.tensor("model.vision_tower.encoder.layers.0.mlp.fc1.weight").status == "equal"


def test_pickled_projector_beside_the_adapter(base: Path, tmp_path: Path) -> None:
    folder = saved(with_lora(tiny_vlm("llava")), tmp_path / "adapter")
    torch.save({}, folder / "non_lora_trainables.bin")
    expected = (
        "the projector is unchanged: your tuning may be in non_lora_trainables.bin, which is pickled, was not read"
    )
    assert ta.diff(base, folder).verdict == expected


def test_lora_merged_twice(base: Path, tmp_path: Path) -> None:
    adapter = saved(with_lora(tiny_vlm("llava")), tmp_path / "adapter")
    model = tiny_vlm("llava")
    for _ in range(2):
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    report = ta.diff(base, saved(model, tmp_path / "merged"), adapter=adapter)
    assert report.verdict == "LoRA was merged twice: the weights moved by 2.00 times the adapter's update"
    assert report.is_lost


def test_lora_merged_once_is_said_to_be(base: Path, tmp_path: Path) -> None:
    adapter = saved(with_lora(tiny_vlm("llava")), tmp_path / "adapter")
    model = PeftModel.from_pretrained(tiny_vlm("llava"), adapter).merge_and_unload()
    report = ta.diff(base, saved(model.to(torch.bfloat16), tmp_path / "m"), adapter=adapter, frozen=["projector"])
    assert "; the adapter's update is in the weights, once, as far as bfloat16 can hold it (rounding swallowed " in (
        report.verdict
    )
    assert report.verdict.endswith(" %); float32 was saved as bfloat16")


def test_lora_not_merged_but_left_beside_the_weights(base: Path, copy: Path) -> None:
    saved(with_lora(tiny_vlm("llava")), copy)
    report = ta.diff(base, copy)
    assert report.verdict == "LoRA is not merged: the adapter's update is in none of its 6 weights"
    assert report.is_lost


def test_lora_inside_a_full_checkpoint(base: Path, copy: Path) -> None:
    """A plain loop that writes the wrapped model's state dict."""
    weights = {name: tensor.clone() for name, tensor in with_lora(tiny_vlm("llava")).state_dict().items()}
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    report = ta.diff(base, copy)
    assert report.verdict == (
        "LoRA is not merged: 12 LoRA tensors lie in the tuned checkpoint beside the weights, and Transformers ignores "
        "them"
    )
    assert [finding.kind for finding in report.findings[:2]] == ["lora_inside", "wrapped_names"]


def test_state_dict_of_a_data_parallel_model(base: Path, copy: Path) -> None:
    model = torch.nn.DataParallel(tiny_vlm("llava"))
    move(model, "projector")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    report = ta.diff(base, copy)
    assert report.verdict == (
        "64 tensors bear a wrapper's names (module.lm_head.weight): Transformers would not load them and fill the "
        "model with random numbers"
    )
    assert report.tensor("model.multi_modal_projector.linear_1.weight").status == "changed"


def test_projector_under_the_names_of_another_code_base(base: Path, copy: Path) -> None:
    old = {
        "multi_modal_projector.linear_1": "model.mm_projector.0",
        "multi_modal_projector.linear_2": "model.mm_projector.2",
    }

    def rename(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {_replaced(name, old): t + 0.01 if "projector" in name else t for name, t in weights.items()}

    change_weights(copy, rename)
    report = ta.diff(base, copy)
    assert report.verdict == (
        "the projector is saved under names that Transformers does not know (model.mm_projector.0.bias): loading would "
        "fill it with random numbers"
    )
    assert report.is_lost
    row = report.tensor("model.multi_modal_projector.linear_2.weight")  # and it was compared all the same
    assert row.status == "changed" and row.relative is not None


def _replaced(name: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        name = name.replace(old, new)
    return name


def test_projector_left_out_of_the_file(base: Path, copy: Path) -> None:
    change_weights(copy, lambda weights: {n: t for n, t in weights.items() if "projector" not in n})
    assert ta.diff(base, copy).verdict == (
        "the projector was not saved: 4 of its 4 tensors are missing, and loading would fill them with random numbers"
    )


def test_vision_tower_hit_by_lora_by_name(base: Path, tmp_path: Path) -> None:
    model = with_lora(tiny_vlm("llava"), ["q_proj", "v_proj"], modules_to_save=["multi_modal_projector"])
    move(model, "modules_to_save")
    expected = (
        "LoRA also hit the vision tower: 4 of its weights changed, by updates of rank 4; target names such as q_proj "
        "are found there too"
    )
    report = ta.diff(base, saved(model, tmp_path / "adapter"))
    assert report.verdict == expected
    assert not report.is_lost
    assert ta.diff(base, saved(model.merge_and_unload(), tmp_path / "merged")).verdict == expected


def test_tied_head_untied(tmp_path: Path) -> None:
    base = saved(tiny_vlm("internvl"), tmp_path / "base")
    model = tiny_vlm("internvl")
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    move(model, "lm_head")
    move(model, "projector")
    report = ta.diff(base, saved(model, tmp_path / "tuned"))
    assert report.verdict == (
        "the output head is no longer tied to the input embedding: their values differ, and whatever ties them as "
        "config.json says drops one of the two"
    )
    assert report.is_lost
    assert report.tensor("lm_head.weight").status == "changed"
    assert report.tensor("model.language_model.embed_tokens.weight").status == "equal"

    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    report = ta.diff(base, saved(model, tmp_path / "untied"))
    assert report.verdict == "the output head, tied to the input embedding in the base, has values of its own"
    assert not report.is_lost


def test_bfloat16_against_float32(base: Path, tmp_path: Path) -> None:
    model = tiny_vlm("llava")
    report = ta.diff(base, saved(model.to(torch.bfloat16), tmp_path / "rounded"))
    assert report.verdict == (
        "nothing is changed beyond the rounding from float32 to bfloat16: your tuning was not saved"
    )
    model = tiny_vlm("llava")
    move(model, "projector")
    report = ta.diff(base, saved(model.to(torch.bfloat16), tmp_path / "tuned"))
    assert report.verdict.startswith("nothing was lost: changed is the projector by")
    assert report.verdict.endswith("; float32 was saved as bfloat16")
    assert report.tensor("lm_head.weight").status == "rounding"


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
def test_names_of_another_transformers_version(family: str, tmp_path: Path) -> None:
    base = saved(tiny_vlm(family), tmp_path / "base")
    tuned = shutil.copytree(base, tmp_path / "tuned")
    model = tiny_vlm(family)
    projector = ta.find_parts(model).projector_tensors[0]
    move(model, projector)
    weights = {
        name: t.clone() for name, t in model.state_dict().items() if name != "lm_head.weight" or family != "gemma3"
    }
    save_file(weights, tuned / "model.safetensors", metadata={"format": "pt"})  # the names of version 5 in memory
    report = ta.diff(base, tuned)
    assert report.verdict.startswith("nothing was lost: changed is the projector")
    assert report.verdict.endswith(" tensors bear names of another Transformers version and were matched")
    assert [row.name for row in report.tensors if row.status != "equal"] == [projector]


def test_truncated_shard(base: Path, tmp_path: Path) -> None:
    model = tiny_vlm("llava")
    move(model, "projector")
    folder = sharded(model, tmp_path / "tuned")
    shard = folder / "model-00002-of-00005.safetensors"
    whole = shard.stat().st_size
    with shard.open("r+b") as file:
        file.truncate(whole - 1000)
    report = ta.diff(base, folder)
    assert report.verdict == (
        f"the tuned checkpoint is incomplete: {shard.name} is cut off: {whole - 1000:,} of {whole:,} bytes"
    )
    assert report.is_lost
    assert any(row.status == "changed" for row in report.tensors)  # the rest is looked at


def test_index_that_names_a_missing_shard(base: Path, tmp_path: Path) -> None:
    folder = sharded(tiny_vlm("llava"), tmp_path / "tuned")
    weight_map = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    shard = "model-00003-of-00005.safetensors"
    (folder / shard).unlink()
    number = list(weight_map.values()).count(shard)
    assert ta.diff(base, folder).verdict == (
        f"the tuned checkpoint is incomplete: {shard} is missing, which the index names (tensors in it: {number})"
    )
    with pytest.raises(ta.ModelError, match=rf"the base is incomplete: {shard} is missing"):
        ta.diff(folder, base)


def test_index_entry_that_its_shard_lacks(base: Path, tmp_path: Path) -> None:
    folder = sharded(tiny_vlm("llava"), tmp_path / "tuned")
    shard = folder / "model-00001-of-00005.safetensors"
    weights = load_file(shard)
    name = sorted(weights)[0]
    save_file({n: t for n, t in weights.items() if n != name}, shard, metadata={"format": "pt"})
    assert ta.diff(base, folder).verdict == (
        f"the tuned checkpoint is incomplete: {shard.name} lacks tensors that the index names in it: 1, as {name}"
    )


def test_nan_tensors(base: Path, copy: Path) -> None:
    def spoil(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights["multi_modal_projector.linear_1.weight"][0, :3] = float("nan")
        weights["multi_modal_projector.linear_2.bias"][0] = float("inf")
        return weights

    change_weights(copy, spoil)
    report = ta.diff(base, copy)
    assert report.verdict == (
        "the tuned weights are not finite: model.multi_modal_projector.linear_1.weight has 3 entries that are NaN or "
        "infinite, and 1 other tensor"
    )
    report.save(copy.parent / "out")  # no NaN may reach the JSON


def test_pickled_checkpoint_is_refused(base: Path, copy: Path) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ta.ModelError, match=r"found only pickled weights \(pytorch_model.bin\), which can run code"):
        ta.diff(base, copy)
    with pytest.raises(ta.ModelError, match=r"pickled weights can run code when read, so they are refused"):
        ta.diff(base, copy / "pytorch_model.bin")


def test_pickled_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    folder = saved(with_lora(tiny_vlm("llava")), tmp_path / "adapter")
    torch.save({}, folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ta.ModelError, match=r"adapter_model.safetensors, found only adapter_model.bin, pickled"):
        ta.diff(base, folder)


def test_a_tied_head_that_is_saved_beside_its_embedding_is_no_loss(tmp_path: Path) -> None:
    base = saved(tiny_vlm("internvl"), tmp_path / "base")
    tuned = shutil.copytree(base, tmp_path / "tuned")

    def with_head(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        embedding = next(t for n, t in weights.items() if "embed_tokens" in n)
        return weights | {"language_model.lm_head.weight": embedding.clone()}

    change_weights(tuned, with_head)
    report = ta.diff(base, tuned)
    assert report.tensor("lm_head.weight").status == "equal"
    assert [finding.kind for finding in report.findings] == ["nothing_changed", "summary"]
    assert ta.diff(tuned, base).findings == report.findings, "and neither is one that is left out"


@pytest.mark.parametrize(
    "family", ["aria", "blip_2", "florence2", "idefics2", "kimi_k25", "mllama", "ovis2", "qwen3_5", "gemma4"]
)
def test_families_with_layouts_of_their_own(family: str, tmp_path: Path) -> None:
    model = tiny_vlm(family)
    base = saved(model, tmp_path / "base")
    parts = ta.find_parts(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in parts.projector_tensors:
                parameter.add_(0.01)
    report = ta.diff(base, saved(model, tmp_path / "tuned"))
    assert [finding.kind for finding in report.findings if finding.severity == "lost"] == []
    changed = {row.name for row in report.tensors if row.status == "changed"}
    assert changed == set(parts.projector_tensors)
    assert {row.part for row in report.tensors if row.name in changed} == {"projector"}


def test_layouts_that_transformers_converts_are_named(tmp_path: Path) -> None:
    """Experts one by one in the file, fused in memory."""
    model = tiny_vlm("kimi_k25")
    report = ta.diff(saved(model, tmp_path / "base"), model.state_dict())
    assert not any(finding.kind == "missing_tensors" for finding in report.findings)
    assert any(finding.kind == "other_layout" for finding in report.findings)


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True, "lora_alpha": 16},
        {"lora_alpha": 8, "alpha_pattern": {"down_proj": 32}, "rank_pattern": {"q_proj": 2}},
        {"lora_alpha": 8, "target_modules": ["embed_tokens", "down_proj"]},
    ],
    ids=["rslora", "patterns", "embedding"],
)
def test_an_adapter_is_what_peft_merges(base: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    model = get_peft_model(tiny_vlm("llava"), LoraConfig(**{"r": 4, "target_modules": TEXT_LINEARS} | options))
    move(model, "lora_B", by=0.02)
    move(model, "lora_embedding", by=0.02)
    adapter = saved(model, tmp_path / "adapter")
    merged = saved(model.merge_and_unload(), tmp_path / "merged")
    first, second = (ta.diff(base, folder) for folder in (adapter, merged))
    assert {row.name for row in first.tensors if row.is_changed} == {r.name for r in second.tensors if r.is_changed}
    for row in first.tensors:
        if row.is_changed:
            assert row.relative == pytest.approx(second.tensor(row.name).relative, rel=1e-5)
    again = ta.diff(base, merged, adapter=adapter, frozen=["projector"])
    assert any("the adapter's update is in the weights, once" in finding.sentence for finding in again.findings)


def test_an_adapter_of_another_base(base: Path, tmp_path: Path) -> None:
    """One whose names PEFT finds no place for, and one whose names fit and whose shapes do not."""
    adapter = saved(with_lora(tiny_vlm("blip_2")), tmp_path / "adapter")
    report = ta.diff(base, adapter)
    assert report.verdict.startswith("PEFT applies none of the adapter's ")
    file = adapter / "adapter_model.safetensors"
    save_file({"base_model.model.lm_head.lora_A.weight": torch.ones(4, 7)}, file, metadata={"format": "pt"})
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["lm_head"]}))
    with pytest.raises(ta.ModelError, match=r"has shape \(4, 7\), where this base takes .* give the base that"):
        ta.diff(base, adapter)


def test_state_dicts_and_models(base: Path) -> None:
    model = tiny_vlm("llava")
    old = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    move(model, "projector")
    for given in (old, base):
        report = ta.diff(given, model)
        assert report.verdict.startswith("nothing was lost: changed is the projector by")
        assert "version" not in report.verdict
    report = ta.diff(old, model.state_dict())
    assert {row.part for row in report.tensors if row.is_changed} == {"projector"}
    assert report.anchor is None and "by names alone" in report.notes[0]
    assert ta.diff(old, torch.nn.DataParallel(model).state_dict()).verdict == report.verdict


def test_a_file_beside_its_configuration(base: Path, copy: Path) -> None:
    change_weights(copy, lambda weights: {n: t + 0.01 if "projector" in n else t for n, t in weights.items()})
    files = (folder / "model.safetensors" for folder in (base, copy))
    assert ta.diff(*files).verdict == ta.diff(base, copy).verdict


def test_texts_need_the_tokenizer(base: Path, copy: Path) -> None:
    change_weights(copy, lambda weights: {n: t * 1.01 if "down_proj" in n else t for n, t in weights.items()})
    with pytest.raises(ta.ModelError, match="tokenizer cannot be read"):
        ta.diff(base, copy, texts=["one"])


def test_nothing_changed(base: Path) -> None:
    assert ta.diff(base, base).verdict == (
        "nothing is changed: the tuned checkpoint holds the base's weights, your tuning was not saved"
    )


def test_resized_vocabulary(base: Path, tmp_path: Path) -> None:
    model = tiny_vlm("llava")
    model.resize_token_embeddings(70, mean_resizing=False)
    move(model, "projector")
    report = ta.diff(base, saved(model, tmp_path / "tuned"))
    assert report.verdict == (
        "the vocabulary was resized, so model.language_model.embed_tokens.weight was not compared"
    )


def test_another_model_is_no_tuned_version(base: Path, tmp_path: Path) -> None:
    other = saved(tiny_vlm("qwen3_vl"), tmp_path / "other")
    assert "missing" in ta.diff(base, other).verdict


def test_strict_ends_with_code_3_where_something_was_lost(base: Path, copy: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> Any:
        return CliRunner().invoke(main.app, ["diff", str(base), *map(str, arguments)])

    assert (run(base).exit_code, run(base, "--strict").exit_code) == (0, 3)
    change_weights(copy, lambda weights: {n: t + 0.01 if "projector" in n else t for n, t in weights.items()})
    done = run(copy, "--strict", "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert done.stdout.startswith("note: nothing was lost: changed is the projector by ")
    assert json.loads((tmp_path / "out" / "diff.json").read_text())["verdict"].startswith("nothing was lost")
    assert "<script" not in (tmp_path / "out" / "diff.html").read_text()
    assert run(copy, "--out", tmp_path / "out").exit_code == 2, "an output folder with content is left alone"


def test_the_page_is_whole_and_says_what_the_report_says(base: Path, copy: Path) -> None:
    change_weights(copy, lambda weights: {n: t * 1.01 if "down_proj" in n else t for n, t in weights.items()})
    report = ta.diff(base, copy, texts=None, frozen=["projector"])
    page = render_diff(report.to_dict())
    elements = read_html(page)
    assert next(e.text for e in elements if e.attributes.get("class") == "headline") == report.verdict
    assert [e.text for e in elements if e.tag == "h2"] == ["Verdict", "Parts", "Text space", "Tensors", "Record"]
    cells = {e.text for e in elements if e.tag == "th"}
    assert {row.name for row in report.tensors} <= cells
    assert page == render_diff(json.loads(json.dumps(report.to_dict())))
