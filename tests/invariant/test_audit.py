"""The audit is the proof: whatever moved a held weight, it is measured, and what cannot be measured is an error."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.held_models import (
    letter_texts,
    noise_images,
    plan_for,
    projector_loss,
    start_weights,
    train,
    trained_by_lora,
    trained_in_full,
    trained_parameters,
)
from helpers.tiny_chat import tiny_chat_model
from textanchor.errors import HoldError
from textanchor.holds import Anchor, FilterConfig, HoldHandle, HoldPlan, attach, audit_plan, fit_anchor, plan_holds
from textanchor.vlm.parts import VLMParts, find_parts

SIZES = {"hidden_size": 96, "intermediate_size": 160}  # so wide that a plan does not keep the weights whole


@cache
def wide_anchor() -> Anchor:
    return fit_anchor(*tiny_chat_model("llava", **SIZES), letter_texts(20), noise_images(8))


def wide_language_model(mode: str = "inputs", hold: str = "exact") -> tuple[VLMParts, HoldPlan]:
    """The language model trained in full, held by a fifth of its directions."""
    parts = find_parts(tiny_chat_model("llava", **SIZES)[0].requires_grad_(False))
    for name in parts.text_linears():
        parts.module(name).requires_grad_(True)
    config = FilterConfig(mode=mode, kept_fraction=0.2, hold=hold)  # pyright: ignore[reportArgumentType]
    plan = plan_holds(parts, wide_anchor(), {"language_model": config})
    plan.freeze()
    assert all(linear.base is None and linear.base_sketch is not None for linear in plan.linears)
    return parts, plan


def steps(parts: VLMParts, optimizer: torch.optim.Optimizer, number: int = 6) -> None:
    ids_BL = torch.randint(5, 300, (3, 10), generator=torch.Generator().manual_seed(0))
    language_model = parts.module(parts.language_model)
    train(lambda: language_model(input_ids=ids_BL).last_hidden_state.sin().mean(), optimizer, steps=number)


@torch.no_grad()
def change_norms(plan: HoldPlan, parts: VLMParts, start: dict[str, Tensor]) -> list[float]:
    """||W - W0|| of each held linear; none has a bias here."""
    named = {name: parts.module(name).weight for name in (linear.name for linear in plan.linears)}
    return [float((weight - start[f"{name}.weight"]).double().norm()) for name, weight in named.items()]


def without_the_hook(parts: VLMParts, optimizer: torch.optim.Optimizer, handle: HoldHandle) -> None:
    handle.remove()
    steps(parts, optimizer)


def by_another_optimizer(parts: VLMParts, optimizer: torch.optim.Optimizer, handle: HoldHandle) -> None:
    steps(parts, optimizer)
    steps(parts, torch.optim.SGD(trained_parameters(parts), lr=1.0), 2)


def by_hand_in_one_held_direction(parts: VLMParts, optimizer: torch.optim.Optimizer, handle: HoldHandle) -> None:
    steps(parts, optimizer)
    for linear in handle.plan.linears:
        weight_OI, direction_D = parts.module(linear.name).weight, linear.subspace.directions_DK[:, 0]
        with torch.no_grad():
            (weight_OI if linear.side == "in" else weight_OI.T).add_(1e-2 * direction_D)


def past_the_parameter(parts: VLMParts, optimizer: torch.optim.Optimizer, handle: HoldHandle) -> None:
    steps(parts, optimizer)
    for linear in handle.plan.linears:
        parts.module(linear.name).weight.data = parts.module(linear.name).weight.data + 1e-3


@pytest.mark.parametrize("mode", ["inputs", "outputs", "coupling"])
@pytest.mark.parametrize(
    "move", [without_the_hook, by_another_optimizer, by_hand_in_one_held_direction, past_the_parameter]
)
def test_whatever_moved_the_language_model_is_seen(move: Callable[..., None], mode: str) -> None:
    parts, plan = wide_language_model(mode)
    start = start_weights(parts)
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-3)
    handle = attach(plan, optimizer)
    move(parts, optimizer, handle)
    report = handle.audit()
    assert len(report.broken) == len(plan.linears)
    with pytest.raises(HoldError, match="lies in protected directions"):
        report.require_kept()
    assert [row.change_norm for row in report.rows] == pytest.approx(change_norms(plan, parts, start), rel=0.4)
    report = audit_plan(plan, start=start)
    assert [row.change_norm for row in report.rows] == pytest.approx(change_norms(plan, parts, start), rel=1e-6)


@pytest.mark.parametrize("mode", ["inputs", "outputs", "coupling"])
def test_a_held_language_model_is_found_kept_by_numbers(mode: str, tmp_path: Path) -> None:
    parts, plan = wide_language_model(mode)
    plan.save(tmp_path / "plan")
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-3)
    handle = attach(plan, optimizer)
    for report in (handle.audit(), plan.audit()):
        assert all(row.weight_leak == row.change_norm == 0 for row in report.rows)
    steps(parts, optimizer)
    for report in (handle.audit(), plan.audit(), HoldPlan.load(tmp_path / "plan", parts.model).audit()):
        report.require_kept()
        for row in report.rows:
            assert row.weight_leak is not None and row.bound is not None and row.relative_update is not None
            assert row.weight_leak <= row.bound < 1e-2 < 10 * row.relative_update


def test_a_saved_plan_without_what_the_audit_needs_is_refused(tmp_path: Path) -> None:
    _, plan = wide_language_model()
    blind = replace(plan, linears=tuple(replace(linear, base_sketch=None) for linear in plan.linears))
    blind.save(tmp_path / "plan")
    with pytest.raises(HoldError, match="nothing is kept that tells how far it moves"):
        HoldPlan.load(tmp_path / "plan")


def test_a_rule_without_a_promise_says_how_far_it_went() -> None:
    parts, plan = wide_language_model(hold="decay")
    start = start_weights(parts)
    optimizer = torch.optim.SGD(trained_parameters(parts), lr=1.0)
    handle = attach(plan, optimizer)
    steps(parts, optimizer)
    report = handle.audit()
    report.require_kept()
    assert [row.change_norm for row in report.rows] == pytest.approx(change_norms(plan, parts, start), rel=0.4)
    assert all(row.weight_leak is not None and 0 < row.weight_leak < 1 for row in report.rows)


def test_a_weight_that_starts_at_zero_is_measured_too() -> None:
    linear = nn.Linear(12, 12)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    plan = Anchor.from_states(torch.randn(200, 12)).plan(linear, "in", num_kept=4)
    with torch.no_grad():
        linear.weight.normal_()
    with pytest.raises(HoldError, match="lies in protected directions"):
        plan.audit().require_kept()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("case", ["full exact", "full share", "full decay", "full penalty", "lora exact", "lora share"])
def test_weights_that_are_not_finite_are_an_error(case: str, value: float) -> None:
    options: dict[str, Any] = {"hold": case.split()[1]}
    last = "model.multi_modal_projector.linear_2"
    parts = trained_by_lora([last]) if "lora" in case else trained_in_full("projector")
    handle = attach(plan_for(parts, **options), torch.optim.SGD(trained_parameters(parts), lr=1e-3))
    name = handle.plan.trained[-1]
    handle.audit()
    with torch.no_grad():
        handle.plan.parameters()[name].view(-1)[-1] = value
    for audit in (handle.audit, handle.plan.audit):
        with pytest.raises(HoldError, match=f"{name.rpartition('.')[0]}.*NaN or infinite.*lower the learning rate"):
            audit()


def test_a_projector_held_by_its_function_says_how_far_its_weights_went() -> None:
    parts = trained_in_full("projector")
    start = start_weights(parts)
    handle = attach(plan_for(parts, hold="penalty"), torch.optim.SGD(trained_parameters(parts), lr=1e-2))
    train(projector_loss(parts), torch.optim.SGD(trained_parameters(parts), lr=1e-2), steps=3)
    (row,) = handle.audit().rows
    now = dict(parts.model.named_parameters())
    held = parts.parameters_of("projector")
    moved = sum(float((now[name] - start[name]).detach().double().square().sum()) for name in held)
    assert row.change_norm == pytest.approx(moved**0.5, rel=1e-6)
