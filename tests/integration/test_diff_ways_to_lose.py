"""Twenty ways in which tuned models get lost, as the table in docs/diff.md has them: each is made, and diff says so."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import textanchor as ta
from helpers.stored_quantised import bnb_4bit, stored
from helpers.tiny_models import tiny_vlm

TEXT_LINEARS = r".*language_model.*\.q_proj"
Tensors = dict[str, torch.Tensor]
MODEL, ADAPTER = "model.safetensors", "adapter_model.safetensors"


def moved(model: Any) -> Any:
    """The model after training of its projector and of queries."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "projector" in name or ("language_model" in name and "q_proj.weight" in name) or "lora_B" in name:
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def saved(model: Any, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    return folder


def rewritten(folder: Path, change: Callable[[Tensors], Tensors], file: str = MODEL) -> Path:
    save_file({n: t.contiguous() for n, t in change(load_file(folder / file)).items()}, folder / file, {"format": "pt"})
    return folder


def tuned(folder: Path) -> Path:
    return saved(moved(tiny_vlm("llava")), folder)


def renamed(prefix: str) -> Callable[[Path, Path], Path]:
    """All names begin with what an engine puts before them."""
    return lambda base, folder: rewritten(tuned(folder), lambda held: {prefix + n: t for n, t in held.items()})


def with_lora(folder: Path, **settings: Any) -> tuple[Any, Path]:
    model: Any = moved(get_peft_model(tiny_vlm("llava"), LoraConfig(r=4, target_modules=TEXT_LINEARS, **settings)))
    return model, saved(model, folder)


def projector_outside_of_peft(base: Path, folder: Path) -> Path:
    return with_lora(folder)[1]


def projector_in_a_pickle(base: Path, folder: Path) -> Path:
    _, adapter = with_lora(folder)
    held = {f"base_model.model.{n}": t for n, t in tiny_vlm("llava").state_dict().items() if "projector" in n}
    torch.save(held, adapter / "non_lora_trainables.bin")
    return adapter


def adapter_of_a_wrapped_model(base: Path, folder: Path) -> Path:
    _, adapter = with_lora(folder)
    return rewritten(adapter, lambda held: {f"base_model.model.{n}": t for n, t in held.items()}, ADAPTER)


def factors_inside(base: Path, folder: Path) -> Path:
    model, _ = with_lora(folder / "adapter")
    out = shutil.copytree(base, folder / "full")
    save_file({n.removeprefix("base_model.model."): t for n, t in model.state_dict().items()}, out / MODEL)
    return out


def not_merged(base: Path, folder: Path) -> Path:
    _, adapter = with_lora(folder / "adapter")
    out = shutil.copytree(base, folder / "full")
    for name in (ADAPTER, "adapter_config.json"):
        shutil.copyfile(adapter / name, out / name)
    return out


def merged_twice(base: Path, folder: Path) -> Path:
    model, adapter = with_lora(folder / "adapter")
    out = saved(model.merge_and_unload(), folder / "full")
    first, once = load_file(base / MODEL), load_file(out / MODEL)
    rewritten(out, lambda held: {n: 2 * once[n] - first[n] for n in held})
    for name in (ADAPTER, "adapter_config.json"):
        shutil.copyfile(adapter / name, out / name)
    return out


def not_gathered(base: Path, folder: Path) -> Path:
    return rewritten(tuned(folder), lambda held: {n: torch.empty(0) if "embed" in n else t for n, t in held.items()})


def adapter_not_gathered(base: Path, folder: Path) -> Path:
    _, adapter = with_lora(folder)
    return rewritten(adapter, lambda held: dict.fromkeys(held, torch.empty(0)), ADAPTER)


def projector_by_other_names(base: Path, folder: Path) -> Path:
    names = {
        "multi_modal_projector.linear_1": "model.mm_projector.0",
        "multi_modal_projector.linear_2": "model.mm_projector.2",
    }

    def other(held: Tensors) -> Tensors:
        return {re.sub(r"^multi_modal_projector\.linear_\d", lambda m: names[m[0]], n): t for n, t in held.items()}

    return rewritten(tuned(folder), other)


def projector_filtered_out(base: Path, folder: Path) -> Path:
    return rewritten(tuned(folder), lambda held: {n: t for n, t in held.items() if "projector" not in n})


def cut_off(base: Path, folder: Path) -> Path:
    file = tuned(folder) / MODEL
    file.write_bytes(file.read_bytes()[:-1000])
    return folder


def without_index(base: Path, folder: Path) -> Path:
    saved(moved(tiny_vlm("llava")), folder, max_shard_size="30KB")
    (folder / f"{MODEL}.index.json").unlink()
    return folder


def beside_an_older_file(base: Path, folder: Path) -> Path:
    saved(moved(tiny_vlm("llava")), folder, max_shard_size="30KB")
    shutil.copyfile(base / MODEL, folder / MODEL)
    return folder


def overflowed(base: Path, folder: Path) -> Path:
    return rewritten(tuned(folder), lambda held: {n: t * float("nan") if "q_proj" in n else t for n, t in held.items()})


def head_apart(base: Path, folder: Path) -> Path:
    model = tiny_vlm("internvl")
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 0.02)
    return saved(moved(model), folder)


def config_of_the_base(base: Path, folder: Path) -> Path:
    model = moved(tiny_vlm("llava"))
    model.resize_token_embeddings(72, mean_resizing=False)
    saved(model, folder)
    shutil.copyfile(base / "config.json", folder / "config.json")
    return folder


def codes_unannounced(base: Path, folder: Path) -> Path:
    def coded(held: Tensors) -> Tensors:
        coded = {n: stored(n, bnb_4bit(t)) if n.endswith("q_proj.weight") else {n: t} for n, t in held.items()}
        return {name: values for parts in coded.values() for name, values in parts.items()}

    return rewritten(tuned(folder), coded)


WAYS: dict[str, Callable[[Path, Path], Path]] = {
    "the projector was set to train after `get_peft_model`, so it is not in the adapter": projector_outside_of_peft,
    "an adapter, and the projector in `non_lora_trainables.bin` beside it": projector_in_a_pickle,
    "an adapter of a model that PEFT had wrapped already, its prefix twice": adapter_of_a_wrapped_model,
    "the state dict of the PEFT model as a full checkpoint": factors_inside,
    "the base's weights, and the adapter beside them": not_merged,
    "an adapter merged into a model that held it already": merged_twice,
    "names that begin with `module.`": renamed("module."),
    "names that begin with `_orig_mod.`": renamed("_orig_mod."),
    "names that hold `_fsdp_wrapped_module.`": renamed("_fsdp_wrapped_module."),
    "weights that were not gathered": not_gathered,
    "an adapter that was not gathered": adapter_not_gathered,
    "the projector as `mm_projector.0` and `mm_projector.2`": projector_by_other_names,
    "only the tensors that a filter let pass": projector_filtered_out,
    "a file that was copied in part": cut_off,
    "shards without their index": without_index,
    "new shards beside the base's `model.safetensors`": beside_an_older_file,
    "weights that overflowed": overflowed,
    "a head with values of its own, which `config.json` ties": head_apart,
    "the base's `config.json` over a grown vocabulary": config_of_the_base,
    "4-bit codes, and a `config.json` without `quantization_config`": codes_unannounced,
}
"""What was written, in the words of the table -> how."""


def table(repository: Path) -> dict[str, tuple[str, str]]:
    """What was written -> framework, and what diff says, of the table in docs/diff.md."""
    text = (repository / "docs" / "diff.md").read_text().partition("## Twenty ways to lose a tuned model")[2]
    lines = [line for line in text.partition("\n## ")[0].splitlines() if line.startswith("| ")][1:]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if "---" not in line]
    return {wrote: (framework, said.strip("*")) for framework, wrote, said in rows}


def test_the_page_has_the_ways_that_are_tested(repository: Path) -> None:
    assert list(table(repository)) == list(WAYS)
    assert len(WAYS) == 20


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: saved(tiny_vlm(family), tmp_path_factory.mktemp(family)) for family in ("llava", "internvl")}


@pytest.mark.parametrize("way", WAYS)
def test_diff_says_what_the_page_says(way: str, bases: dict[str, Path], repository: Path, tmp_path: Path) -> None:
    make = WAYS[way]
    base = bases["internvl" if make is head_apart else "llava"]
    report = ta.diff(base, make(base, tmp_path / "tuned"))
    pattern = ".*".join(re.escape(piece) for piece in table(repository)[way][1].split("…"))
    assert report.is_lost
    assert re.match(pattern, report.verdict), report.verdict
