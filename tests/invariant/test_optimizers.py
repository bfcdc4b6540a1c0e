"""The promise does not depend on the optimizer, nor on what a loop does around its step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.held_models import plan_for, trained_by_lora, trained_in_full, trained_parameters
from helpers.optimizers import Lion
from textanchor.errors import HoldError
from textanchor.holds import HoldHandle, attach
from textanchor.vlm.parts import VLMParts

Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd with momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.0, foreach=False),
    "adamw with decay": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.3),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.3),
    "lion": lambda p: Lion(p, lr=1e-3, weight_decay=0.1),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "inputs": {"mode": "inputs"},
    "outputs": {"mode": "outputs"},
    "coupling": {"mode": "coupling"},
}
LAST = ["model.multi_modal_projector.linear_2"]


def batch_loss(parts: VLMParts, rows: slice = slice(None)) -> Tensor:
    """Mean over a fixed batch of 8, or the part of that mean that some rows of it make."""
    generator = torch.Generator().manual_seed(5)
    projector = parts.module(parts.projector[0])
    dtype = next(projector.parameters()).dtype
    features_BLD = torch.randn(8, 4, 24, generator=generator, dtype=dtype)
    targets_BLD = 3 * torch.randn(8, 4, 32, generator=generator, dtype=dtype)
    return (projector(features_BLD[rows]) - targets_BLD[rows]).square().sum() / targets_BLD.numel()


def held(
    is_lora: bool, make: Make, dtype: torch.dtype = torch.float32, **options: Any
) -> tuple[VLMParts, torch.optim.Optimizer, HoldHandle]:
    parts = trained_by_lora(LAST) if is_lora else trained_in_full("projector")
    parts.model.to(dtype)
    plan = plan_for(parts, **options)
    plan.freeze()
    optimizer = make(trained_parameters(parts))
    return parts, optimizer, attach(plan, optimizer)


def require_kept(handle: HoldHandle) -> None:
    report = handle.audit()
    report.require_kept()
    for row in report.rows:
        assert row.weight_leak is not None and row.bound is not None and row.relative_update is not None
        assert row.relative_update > 1e-4, "nothing moved, so this shows nothing"
        assert row.weight_leak <= row.bound


@pytest.mark.parametrize("is_lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_with_clipping_and_a_rate_that_falls_to_zero(name: str, setting: str, is_lora: bool) -> None:
    parts, optimizer, handle = held(is_lora, OPTIMIZERS[name], **SETTINGS[setting])
    steps = 8
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / (steps - 1))
    for _ in range(steps):
        optimizer.zero_grad()
        batch_loss(parts).backward()
        torch.nn.utils.clip_grad_norm_(trained_parameters(parts), 0.5)
        optimizer.step()
        schedule.step()
    before = [parameter.detach().clone() for parameter in trained_parameters(parts)]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    batch_loss(parts).backward()
    optimizer.step()
    assert all(torch.equal(p, was) for p, was in zip(trained_parameters(parts), before, strict=True))
    require_kept(handle)


@pytest.mark.parametrize("is_lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_step_inside_autocast_rounds_no_rule(setting: str, is_lora: bool) -> None:
    parts, optimizer, handle = held(is_lora, OPTIMIZERS["adamw"], **SETTINGS[setting])
    for _ in range(8):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            batch_loss(parts).backward()
            optimizer.step()
    require_kept(handle)


@pytest.mark.parametrize("setting", ["inputs exact", "outputs share", "coupling exact", "inputs decay", "projected"])
def test_batch_8_is_8_times_batch_1(setting: str) -> None:
    # in float64, because Adam scales up what rounding leaves in the projected directions of the gradients
    options: dict[str, Any] = {"mode": "inputs", "gradients": "projected", "dtype": torch.float64}
    if setting != "projected":
        options = dict(zip(("mode", "hold"), setting.split(), strict=True))
    ends = []
    for pieces in (1, 8):
        parts, optimizer, handle = held(False, OPTIMIZERS["adamw with decay"], **options)
        for _ in range(6):
            optimizer.zero_grad()
            for i in range(pieces):
                batch_loss(parts, slice(i * 8 // pieces, (i + 1) * 8 // pieces)).backward()
            torch.nn.utils.clip_grad_norm_(trained_parameters(parts), 0.5)
            optimizer.step()
        ends.append([parameter.detach() for parameter in trained_parameters(parts)])
        assert handle.audit().rows[0].relative_update > 1e-2  # pyright: ignore
    for whole, accumulated in zip(*ends, strict=True):
        torch.testing.assert_close(whole, accumulated, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["sgd", "adamw", "adamw foreach", "adamw fused"])
@pytest.mark.parametrize("options", [{"mode": "coupling"}, {"mode": "outputs", "hold": "decay"}], ids=str)
def test_a_step_that_the_scaler_skips_changes_nothing(name: str, options: dict[str, Any]) -> None:
    parts, optimizer, handle = held(False, OPTIMIZERS[name], **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    moved = []
    for scale in (1.0, 1.0, torch.inf, 1.0):
        before = [parameter.detach().clone() for parameter in trained_parameters(parts)]
        optimizer.zero_grad()
        scaler.scale(batch_loss(parts) * scale).backward()
        scaler.step(optimizer)
        scaler.update()
        moved.append(any(not torch.equal(p, was) for p, was in zip(trained_parameters(parts), before, strict=True)))
    assert moved == [True, True, False, True]
    handle.audit().require_kept()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_takes_optimizers_whose_rate_is_the_step_and_no_others(name: str) -> None:
    options = {"mode": "outputs", "hold": "decay"}
    if name == "adafactor":
        with pytest.raises(HoldError, match="not the size of its steps"):
            held(False, OPTIMIZERS[name], **options)
        return
    parts, optimizer, handle = held(False, OPTIMIZERS[name], **options)
    batch_loss(parts).backward()
    optimizer.step()
    assert handle.audit().rows[0].protected_norm > 0  # pyright: ignore
