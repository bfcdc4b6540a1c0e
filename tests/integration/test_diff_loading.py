"""The truth of a folder is what Transformers loads from it, with the folder's own config.json."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

import textanchor as ta
from helpers.tiny_models import tiny_vlm
from textanchor.diffs.checkpoint import checkpoint_of_tensors
from textanchor.diffs.loading import load_report
from textanchor.diffs.structure import Structure
from textanchor.vlm.loading import empty_vlm

PROJECTOR = "multi_modal_projector.linear_1.weight"
TEXT_LINEARS = r".*language_model.*\.q_proj"
Tensors = dict[str, torch.Tensor]


def tuned_model(family: str = "llava") -> Any:
    model = tiny_vlm(family)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "projector" in name or "q_proj" in name:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tiny_vlm("llava").save_pretrained(folder)
    return folder


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    tuned_model().save_pretrained(tmp_path / "tuned")
    return tmp_path / "tuned"


def change_weights(folder: Path, change: Callable[[Tensors], Tensors], file: str = "model.safetensors") -> None:
    save_file(change(load_file(folder / file)), folder / file, metadata={"format": "pt"})


def change_config(folder: Path, **values: Any) -> None:
    """Values of the text's part, or of the whole where they are no part of it."""
    config = json.loads((folder / "config.json").read_text())
    for key, value in values.items():
        (config["text_config"] if key in config["text_config"] else config)[key] = value
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl", "paligemma", "kimi_k25", "mllama"])
def test_the_report_is_that_of_a_real_load(family: str, tmp_path: Path) -> None:
    """Whatever a file lacks, and in whatever shape, of plain, renamed, tied and fused tensors."""
    model = tiny_vlm(family)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    structure = Structure.of_names(tmp_path)
    for i, name in list(enumerate(weights))[:: max(1, len(weights) // 12)]:
        damaged = {n: t for n, t in weights.items() if n != name} | {"other.weight": torch.ones(2)}
        if i % 2:
            damaged[name] = torch.zeros(0)
        save_file(damaged, tmp_path / "model.safetensors", metadata={"format": "pt"})
        report = load_report(structure, checkpoint_of_tensors(damaged).tensors)
        try:
            _, info = AutoModelForImageTextToText.from_pretrained(
                tmp_path, output_loading_info=True, ignore_mismatched_sizes=True
            )
        except RuntimeError:
            assert report.refusal
            continue
        assert set(report.missing) == info["missing_keys"]
        found = {(shape.name, shape.stored, shape.asked) for shape in report.other_shapes}
        assert found == {(name, tuple(a), tuple(b)) for name, a, b in info["mismatched_keys"]}


UNFIT: dict[str, tuple[dict[str, Any], str]] = {
    "a layer more": ({"num_hidden_layers": 3}, r"9 tensors are missing \(model.language_model.layers.2."),
    "another width": ({"hidden_size": 64}, r"from_pretrained cannot load the folder: \d+ tensors are of another shape"),
    "another vocabulary": ({"vocab_size": 80}, r"cannot load the folder: 2 tensors .*\(64, 32\) in the weights"),
    "no such model": ({"hidden_size": "big"}, "from_pretrained cannot load the folder: .*hidden_size"),
    "no such heads": ({"num_attention_heads": 5}, "from_pretrained cannot load the folder: .*attention heads"),
    "a layer less": ({"num_hidden_layers": 1}, r"9 tensors are missing for which the tuned folder's config.json has"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_config_that_does_not_fit_its_weights(case: str, base: Path, tuned: Path, tmp_path: Path) -> None:
    values, expected = UNFIT[case]
    change_config(tuned, **values)
    report = ta.diff(base, tuned)
    assert report.is_lost
    with pytest.raises(AssertionError, match=expected):
        raise AssertionError(report.verdict)
    with pytest.raises(ta.ModelError):
        ta.repair(tuned, base, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ta.ModelError):  # the same folder as a base
        ta.diff(tuned, base) if case != "a layer less" else ta.repair(base, tuned, tmp_path / "out")


def test_a_model_with_a_config_of_its_own_is_read_by_it(base: Path, tmp_path: Path) -> None:
    """More layers and more words than the base has, all of them saved: nothing is missing, and nothing unknown."""
    model = tuned_model()
    model.resize_token_embeddings(72, mean_resizing=False)
    model.save_pretrained(tmp_path / "grown")
    change_config(tmp_path / "grown", num_hidden_layers=3)

    def with_a_third_layer(weights: Tensors) -> Tensors:
        second = {name: values for name, values in weights.items() if "model.layers.1." in name}
        return weights | {n.replace("layers.1.", "layers.2."): values.clone() for n, values in second.items()}

    change_weights(tmp_path / "grown", with_a_third_layer)
    report = ta.diff(base, tmp_path / "grown")
    assert {finding.kind for finding in report.findings if finding.severity == "lost"} == set()
    assert "unexpected_tensors" not in {finding.kind for finding in report.findings}
    assert report.tensor("model.language_model.layers.2.mlp.up_proj.weight").status == "added"
    with pytest.raises(ta.ModelError, match="in one of both models only"):
        ta.repair(tmp_path / "grown", base, tmp_path / "out")


@pytest.mark.parametrize("lacks", [PROJECTOR, "language_model.lm_head.weight", "layers.0.mlp.up_proj.weight"])
def test_a_base_that_lacks_a_tensor_is_refused(lacks: str, base: Path, tuned: Path, tmp_path: Path) -> None:
    short = shutil.copytree(base, tmp_path / "short")
    change_weights(short, lambda weights: {n: t for n, t in weights.items() if not n.endswith(lacks)})
    for call in (lambda: ta.diff(short, tuned), lambda: ta.repair(tuned, short, tmp_path / "out")):
        with pytest.raises(ta.ModelError, match=r"the base is incomplete: .* is missing \(1 tensors in all\)"):
            call()


# --- tied heads ---


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tied")
    tiny_vlm("internvl").save_pretrained(folder)
    return folder


def untied(folder: Path, to: Path) -> Path:
    """What the refusal says to do."""
    model: Any = AutoModelForImageTextToText.from_pretrained(folder)
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.save_pretrained(to)
    return to


def test_a_config_that_unties_a_head_which_was_not_saved(tied: Path, tmp_path: Path) -> None:
    tuned_model("internvl").save_pretrained(tmp_path / "tuned")
    change_config(tmp_path / "tuned", tie_word_embeddings=False)
    config = json.loads((tmp_path / "tuned" / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = False
    (tmp_path / "tuned" / "config.json").write_text(json.dumps(config))
    assert ta.diff(tied, tmp_path / "tuned").verdict == (
        "1 tensor is missing (lm_head.weight): loading would fill them with random numbers"
    )
    with pytest.raises(ta.ModelError, match=r"lm_head.weight is missing"):
        ta.repair(tmp_path / "tuned", tied, tmp_path / "out")


def test_a_config_that_ties_what_the_base_does_not(tied: Path, tmp_path: Path) -> None:
    tuned_model("internvl").save_pretrained(tmp_path / "tuned")
    free = untied(tied, tmp_path / "free")
    report = ta.diff(free, tmp_path / "tuned")
    assert not report.is_lost and report.tensor("lm_head.weight").status == "equal"
    with pytest.raises(ta.ModelError, match=r"config.json ties lm_head.weight to .*, and the base's"):
        ta.repair(tmp_path / "tuned", free, tmp_path / "out")


APART = {
    "whole head": {"modules_to_save": ["lm_head"]},
    "whole embedding": {"modules_to_save": ["embed_tokens"]},
    "both, each for itself": {"modules_to_save": ["lm_head", "embed_tokens"]},
    "LoRA on the head": {"target_modules": r".*language_model.*q_proj|lm_head"},
    "LoRA on the embedding": {"target_modules": r".*language_model.*(q_proj|embed_tokens)"},
}
TOGETHER = {
    "tied by PEFT": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "rows of tokens": {"trainable_token_indices": [1, 5]},
}


def adapter_of(folder: Path, to: Path, **settings: Any) -> Path:
    config = LoraConfig(**{"r": 2, "target_modules": TEXT_LINEARS, **settings})
    model: Any = get_peft_model(AutoModelForImageTextToText.from_pretrained(folder), config)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(to)
    return to


@pytest.mark.filterwarnings(
    "ignore:Model \\w+ .tie_word_embeddings:UserWarning", "ignore:Setting .save_embedding_layers:UserWarning"
)
@pytest.mark.parametrize("kind", APART)
def test_an_adapter_that_takes_a_tied_head_apart(kind: str, tied: Path, tmp_path: Path) -> None:
    adapter = adapter_of(tied, tmp_path / "adapter", **APART[kind])
    report = ta.diff(tied, adapter, frozen=["projector"])
    assert not report.is_lost
    assert "head_untied_by_adapter" in {finding.kind for finding in report.findings}
    with pytest.raises(ta.ModelError, match=r"come apart from the input embedding.*repair a base that is untied too"):
        ta.repair(adapter, tied, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # the way out
    free = untied(tied, tmp_path / "free")
    ta.repair(adapter, free, tmp_path / "out")
    merged: Any = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(free), adapter)
    new = merged.merge_and_unload().state_dict()
    old, got = (AutoModelForImageTextToText.from_pretrained(f).state_dict() for f in (free, tmp_path / "out"))
    for name in ("lm_head.weight", "model.language_model.embed_tokens.weight"):
        torch.testing.assert_close(got[name], (old[name] + new[name]) / 2)


@pytest.mark.parametrize("kind", TOGETHER)
def test_an_adapter_that_keeps_a_head_tied(kind: str, tied: Path, tmp_path: Path) -> None:
    adapter = adapter_of(tied, tmp_path / "adapter", **TOGETHER[kind])
    report = ta.diff(tied, adapter, frozen=["projector"])
    assert "head_untied_by_adapter" not in {finding.kind for finding in report.findings}
    ta.repair(adapter, tied, tmp_path / "out")
    merged: Any = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(tied), adapter)
    new = merged.merge_and_unload().state_dict()
    old, got = (AutoModelForImageTextToText.from_pretrained(f).state_dict() for f in (tied, tmp_path / "out"))
    for name in ("lm_head.weight", "model.language_model.embed_tokens.weight"):
        torch.testing.assert_close(got[name], (old[name] + new[name]) / 2)


# --- what ZeRO-3 leaves ---


@pytest.mark.parametrize("words", ["embed_tokens", "multi_modal", "q_proj", "."])
def test_empty_weights_are_named_for_what_they_are(words: str, base: Path, tuned: Path, tmp_path: Path) -> None:
    change_weights(tuned, lambda weights: {n: torch.empty(0) if words in n else t for n, t in weights.items()})
    report = ta.diff(base, tuned)
    assert report.is_lost and "empty, of shape (0,) (model." in report.verdict and "ZeRO-3" in report.verdict
    assert not {f.kind for f in report.findings} & {"vocabulary_resized", "other_shapes", "missing_tensors"}
    with pytest.raises(ta.ModelError, match=r"empty.*ZeRO-3"):
        ta.repair(tuned, base, tmp_path / "out")
    with pytest.raises(ta.ModelError, match=r"cannot load the base: .* empty.*ZeRO-3"):
        ta.diff(tuned, base)
    in_memory = ta.diff(load_file(base / "model.safetensors"), load_file(tuned / "model.safetensors"))
    assert in_memory.is_lost and "ZeRO-3" in in_memory.verdict


@pytest.mark.parametrize("words", ["lora_A", "lora_B", "multi_modal_projector", "."])
def test_empty_adapters_are_named_for_what_they_are(words: str, base: Path, tmp_path: Path) -> None:
    adapter = adapter_of(base, tmp_path / "adapter", modules_to_save=["multi_modal_projector"])
    file = "adapter_model.safetensors"
    change_weights(adapter, lambda held: {n: torch.empty(0) if words in n else t for n, t in held.items()}, file)
    report = ta.diff(base, adapter)
    assert report.is_lost and f"{file} holds " in report.verdict and "ZeRO-3" in report.verdict
    with pytest.raises(ta.ModelError, match=r"incomplete: .*empty.*ZeRO-3"):
        ta.repair(adapter, base, tmp_path / "out")


def test_an_adapter_file_without_tensors(base: Path, tuned: Path, tmp_path: Path) -> None:
    adapter = adapter_of(base, tmp_path / "adapter")
    save_file({}, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    assert "adapter_model.safetensors holds no tensors, as ZeRO-3" in ta.diff(base, adapter).verdict
    with pytest.raises(ta.ModelError, match="holds no tensors, as ZeRO-3"):
        ta.diff(base, tuned, adapter=adapter)


def test_an_adapter_that_peft_does_not_apply_says_nothing_of_a_merge(base: Path, tuned: Path, tmp_path: Path) -> None:
    adapter = adapter_of(base, tmp_path / "adapter")
    file = "adapter_model.safetensors"
    change_weights(adapter, lambda held: {n.replace("layers.1", "layers.9"): t for n, t in held.items()}, file)
    with pytest.raises(ta.ModelError, match=r"no place in this base for 2 of the adapter's 4 tensors"):
        ta.diff(base, tuned, adapter=adapter)
    for name in (file, "adapter_config.json"):
        shutil.copyfile(adapter / name, tuned / name)
    assert "adapter_unread" in {finding.kind for finding in ta.diff(base, tuned).findings}


# --- numbers that are none ---


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", [PROJECTOR, "multi_modal_projector.linear_2.bias", "layers.0.mlp.up_proj.weight"])
def test_a_base_that_is_not_finite_is_named(where: str, bad: float, base: Path, tuned: Path, tmp_path: Path) -> None:
    spoiled = shutil.copytree(base, tmp_path / "spoiled")

    def spoil(weights: Tensors) -> Tensors:
        name = next(name for name in weights if name.endswith(where))
        weights[name].view(-1)[3] = bad
        weights[name].view(-1)[4] = bad
        return weights

    change_weights(spoiled, spoil)
    change_weights(tuned, lambda weights: {n: t + 0.01 if n.endswith(where) else t for n, t in weights.items()})
    with pytest.raises(ta.ModelError, match=rf"spoiled: .*{where} has 2 entries that are NaN or infinite"):
        ta.diff(spoiled, tuned)
    lost = ta.diff(base, spoiled)
    assert lost.is_lost and f"{where} has 2 entries that are NaN or infinite" in lost.verdict


def test_a_base_whose_embedding_is_not_finite(base: Path, tuned: Path, tmp_path: Path) -> None:
    """Equal in both, so that only the text anchor meets it."""
    for folder in (shutil.copytree(base, tmp_path / "spoiled"), tuned):
        change_weights(
            folder, lambda weights: {n: t * float("nan") if "embed_tokens" in n else t for n, t in weights.items()}
        )
    with pytest.raises(ta.ModelError, match="input embedding"):
        ta.diff(tmp_path / "spoiled", tuned)


@pytest.mark.parametrize("size", [1e19, 1e30, 3e38])
def test_numbers_whose_squares_are_too_large(size: float, base: Path, tuned: Path, tmp_path: Path) -> None:
    change_weights(tuned, lambda weights: {n: t * 0 + size if n.endswith(PROJECTOR) else t for n, t in weights.items()})
    report = ta.diff(base, tuned)
    assert report.tensor(f"model.{PROJECTOR}").status == "changed"
    report.write(tmp_path / "page")


def test_an_adapter_that_is_not_finite(base: Path, tuned: Path, tmp_path: Path) -> None:
    adapter = adapter_of(base, tmp_path / "adapter")
    file = "adapter_model.safetensors"
    change_weights(adapter, lambda held: {n: t * float("nan") if "lora_B" in n else t for n, t in held.items()}, file)
    assert "are NaN or infinite" in ta.diff(base, adapter).verdict
    with pytest.raises(ta.ModelError, match=r"lora_B.weight is NaN or infinite in part"):
        ta.diff(base, tuned, adapter=adapter)


@pytest.mark.parametrize("text", ["[]", "3", '"x"'])
def test_an_index_that_is_no_object(text: str, base: Path, tmp_path: Path) -> None:
    """Beside a single file from_pretrained passes over it, so diff does too; parts says what is wrong."""
    folder = shutil.copytree(base, tmp_path / "indexed")
    (folder / "model.safetensors.index.json").write_text(text)
    assert ta.diff(base, folder).verdict == ta.diff(base, base).verdict
    with pytest.raises(ta.ModelError, match=r"model.safetensors.index.json: expected an object"):
        empty_vlm(folder)
