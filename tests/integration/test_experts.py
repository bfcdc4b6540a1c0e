"""Experts that a layer keeps in one tensor: named by parts, frozen by plans of any training, compared by diff."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from helpers.held_models import letter_texts, train, trained_parameters
from helpers.tiny_models import tiny_inputs, tiny_vlm
from helpers.tiny_training import LetterTokenizer
from textanchor.diffs import diff
from textanchor.holds import FilterConfig, HoldPlan, attach, fit_anchor, plan_holds
from textanchor.vlm.parts import VLMParts, find_parts

FAMILIES = ("qwen3_vl_moe", "aria", "llama4", "kimi_k25", "ernie4_5_vl_moe")
CONFIG = FilterConfig(mode="inputs", kept_energy=0.5)


def planned(parts: VLMParts) -> HoldPlan:
    anchor = fit_anchor(parts.model, SimpleNamespace(tokenizer=LetterTokenizer()), letter_texts(6), parts=parts)
    return plan_holds(parts, anchor, {"language_model": CONFIG})


def whys(plan: HoldPlan) -> dict[str, str]:
    return {row.name: row.why for row in plan.tensors if row.rule == "frozen"}


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_name_them(name: str) -> None:
    parts = find_parts(tiny_vlm(name))
    experts = parts.experts()
    assert experts and experts.keys() <= parts.parameters_of("language_model").keys()
    assert {name for name in parts.parameters_of("language_model") if ".experts." in name and "bias" not in name} <= (
        experts.keys()
    )
    (row,) = (line for line in str(parts).splitlines() if line.startswith("  experts"))
    assert str(len(experts)) in row and "out of reach of LoRA" in row
    assert "experts" not in str(find_parts(tiny_vlm("llava")))


@pytest.mark.parametrize("name", FAMILIES)
def test_full_tuning_under_a_hold_leaves_them_as_they_are(name: str) -> None:
    parts, inputs = find_parts(tiny_vlm(name)), tiny_inputs(name)
    for part in ("vision_tower", "projector", "other"):
        for parameter in parts.parameters_of(part).values():
            parameter.requires_grad_(False)
    plan = planned(parts)
    frozen = whys(plan)
    assert all("experts in one tensor" in frozen[path] for path in parts.experts())
    plan.freeze()
    start = {path: p.detach().clone() for path, p in parts.parameters_of("language_model").items()}
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-2)
    handle = attach(plan, optimizer)
    train(lambda: parts.model(**inputs).logits.square().sum(), optimizer, steps=3)
    handle.audit().require_kept()
    moved = {path for path, p in parts.parameters_of("language_model").items() if not torch.equal(p, start[path])}
    assert moved and not moved & parts.experts().keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_plan_for_lora_says_that_they_are_frozen(name: str) -> None:
    bare = find_parts(tiny_vlm(name).requires_grad_(False))
    wrapped = get_peft_model(bare.model, LoraConfig(r=2, target_modules=list(bare.text_linears())))  # pyright: ignore
    parts = find_parts(wrapped)
    assert parts.experts().keys() == bare.experts().keys()
    frozen = whys(planned(parts))
    assert all("out of reach of LoRA" in frozen[path] for path in parts.experts())


def test_lora_on_the_tensor_itself_has_no_rule_and_is_frozen() -> None:
    bare = find_parts(tiny_vlm("qwen3_vl_moe").requires_grad_(False))
    linears = list(bare.text_linears())
    config = LoraConfig(r=2, target_modules=linears, target_parameters=["mlp.experts.down_proj"], lora_dropout=0.0)
    parts = find_parts(get_peft_model(bare.model, config))  # pyright: ignore[reportArgumentType]
    plan = planned(parts)
    on_experts = [path for path in parts.parameters_of("language_model") if ".experts.lora_" in path]
    assert on_experts and set(on_experts) <= set(plan.frozen)


@pytest.mark.parametrize("name", FAMILIES)
def test_diff_compares_them(name: str, tmp_path: Path) -> None:
    parts = find_parts(tiny_vlm(name))
    parts.model.save_pretrained(tmp_path / "base")  # pyright: ignore[reportCallIssue]
    path, tensor = next(iter(parts.experts().items()))
    with torch.no_grad():
        tensor[0] *= 1.5
    parts.model.save_pretrained(tmp_path / "tuned")  # pyright: ignore[reportCallIssue]
    report = diff(tmp_path / "base", tmp_path / "tuned")
    changed = [row for row in report.tensors if row.is_changed]
    assert changed and {row.part for row in changed} == {"language_model"}
    assert all("expert" in row.name for row in changed), (path, changed)
    energy = (tensor[0].detach() / 3).square().sum()  # of the half that was added
    assert sum(row.update_energy for row in changed) == pytest.approx(float(energy), rel=1e-5)
