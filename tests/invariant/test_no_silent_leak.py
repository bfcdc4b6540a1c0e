"""Whatever an optimizer does with the weights is held, or refused by name: never passed over in silence."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from transformers.optimization import Adafactor

from helpers.held_models import (
    plan_for,
    projector_loss,
    train,
    trained_by_lora,
    trained_in_full,
    trained_parameters,
)
from helpers.optimizers import (
    SAM,
    AloneSAM,
    InBackward,
    LayerWise,
    Lomo,
    Lookahead,
    Nameless,
    ScheduleFreeSGD,
    ScheduleFreeWrapper,
)
from textanchor.errors import HoldError
from textanchor.holds import HoldHandle, HoldPlan, attach, audit_plan
from textanchor.vlm.parts import VLMParts

LINEARS = ["model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2"]
RULES: dict[str, dict[str, Any]] = {
    "exact": {"mode": "inputs"},
    "share": {"mode": "inputs", "hold": "share"},
    "decay": {"mode": "inputs", "hold": "decay"},
}
REFUSED: dict[str, tuple[Callable[[list[nn.Parameter]], Any], str]] = {
    "lomo": (lambda p: Lomo(p, lr=0.1), "Lomo moves weights inside the backward pass"),
    "schedule-free": (lambda p: ScheduleFreeSGD(p, lr=0.1), r"ScheduleFreeSGD .* after its eval\(\)"),
    "schedule-free wrapper": (
        lambda p: ScheduleFreeWrapper(torch.optim.SGD(p, lr=0.1)),
        r"ScheduleFreeWrapper .* after its eval\(\)",
    ),
    "schedule-free inside": (lambda p: Lookahead(ScheduleFreeSGD(p, lr=0.1)), "ScheduleFreeSGD trains one set"),
    "sam alone": (lambda p: AloneSAM(p, lr=0.1), "AloneSAM moves weights by first_step"),
    "layer-wise": (lambda p: LayerWise(p, lr=0.1), "LayerWise has nothing of what is held"),
    "flat copies": (
        lambda p: torch.optim.AdamW([torch.cat([x.detach().flatten() for x in p])], lr=0.1),
        "AdamW has nothing of what is held. DeepSpeed's ZeRO",
    ),
}


def setting(is_lora: bool = False, rule: str = "exact") -> tuple[VLMParts, HoldPlan]:
    parts = trained_by_lora(LINEARS) if is_lora else trained_in_full("projector")
    return parts, plan_for(parts, **RULES[rule])


def require_kept(handle: HoldHandle) -> None:
    report = handle.audit()
    report.require_kept()
    assert all(row.relative_update is not None and row.relative_update > 1e-4 for row in report.rows)


@pytest.mark.parametrize("is_lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("is_prepared", [False, True], ids=["alone", "accelerate"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_moves_weights_outside_its_step_is_refused(name: str, is_prepared: bool, is_lora: bool) -> None:
    from accelerate import Accelerator

    parts, plan = setting(is_lora)
    make, words = REFUSED[name]
    optimizer = make(trained_parameters(parts))
    if is_prepared and isinstance(optimizer, torch.optim.Optimizer):
        optimizer = Accelerator(cpu=True).prepare_optimizer(optimizer)
    with pytest.raises(HoldError, match=words):
        attach(plan, optimizer)


def test_what_is_refused_would_leak_and_the_audit_would_see_it() -> None:
    for make in (lambda p: ScheduleFreeSGD(p, lr=1.0), lambda p: Lomo(p, lr=0.1), lambda p: LayerWise(p, lr=0.1)):
        parts, plan = setting()
        optimizer = make(trained_parameters(parts))
        train(projector_loss(parts), optimizer, steps=4)
        if isinstance(optimizer, ScheduleFreeSGD):
            optimizer.eval()
        with pytest.raises(HoldError, match="lies in protected directions"):
            audit_plan(plan).require_kept()


@pytest.mark.parametrize("is_lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("rule", RULES)
def test_weights_that_move_in_the_backward_pass_are_noticed_at_the_first_step(rule: str, is_lora: bool) -> None:
    parts, plan = setting(is_lora, rule)
    optimizer = InBackward(trained_parameters(parts), lr=0.1)
    attach(plan, optimizer)
    with pytest.raises(HoldError, match=r"linear_1.*InBackward moves weights outside its step"):
        train(projector_loss(parts), optimizer, steps=1)


def test_one_linear_that_moves_by_itself_is_noticed_also_after_steps_without_it() -> None:
    parts, plan = setting()
    last = parts.module(LINEARS[1])
    own = torch.optim.SGD(last.parameters(), lr=0.1)
    optimizer = torch.optim.SGD(trained_parameters(parts), lr=0.1)
    attach(plan, optimizer)
    for parameter in parts.module(LINEARS[0]).parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()  # a step that the last linear has no part in is no fault
    projector_loss(parts)().backward()
    own.step()
    own.zero_grad()
    with pytest.raises(HoldError, match="linear_2: moved without a gradient"):
        optimizer.step()


@pytest.mark.parametrize("is_lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("way", ["two steps", "closure"])
@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
def test_sam_is_held_however_it_is_called(base: type, way: str, is_lora: bool) -> None:
    parts, plan = setting(is_lora)
    optimizer = SAM(trained_parameters(parts), base, lr=1e-2)
    handle, loss = attach(plan, optimizer), projector_loss(parts)
    for _ in range(5):
        loss().backward()
        if way == "two steps":
            optimizer.first_step()
            loss().backward()
            optimizer.second_step()
        else:
            optimizer.step(lambda: loss().backward())
    assert handle.num_steps == 5
    require_kept(handle)


@pytest.mark.parametrize("is_lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("steps", [3, 4])
def test_what_an_outer_optimizer_writes_last_is_held(steps: int, is_lora: bool) -> None:
    parts, plan = setting(is_lora)
    optimizer = Lookahead(torch.optim.AdamW(trained_parameters(parts), lr=1e-2))
    handle = attach(plan, optimizer)
    train(projector_loss(parts), optimizer, steps=steps)
    assert handle.num_steps == steps
    require_kept(handle)


@pytest.mark.parametrize("rule", ["exact", "share"])
@pytest.mark.parametrize(
    "make",
    [
        lambda p: Adafactor(p),
        lambda p: Adafactor(p, lr=None, scale_parameter=False, warmup_init=True),
        Nameless,
        lambda p: torch.optim.AdamW(p, lr=torch.tensor(1e-2), capturable=False, foreach=False),
    ],
    ids=["adafactor", "adafactor with warmup", "no rate at all", "rate as a tensor"],
)
def test_optimizers_without_a_rate_of_their_own_are_held(make: Callable[..., Any], rule: str) -> None:
    parts, plan = setting(rule=rule)
    optimizer = make(trained_parameters(parts))
    handle = attach(plan, optimizer)
    train(projector_loss(parts), optimizer, steps=10)
    handle.audit().require_kept()
    assert all(row.change_norm > 0 for row in handle.audit().rows)


def flat(optimizer: torch.optim.Optimizer) -> None:
    parameters = optimizer.param_groups[0]["params"]
    optimizer.param_groups[0]["params"] = [nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))]


def empty(optimizer: torch.optim.Optimizer) -> None:
    optimizer.param_groups.clear()


def clones(optimizer: torch.optim.Optimizer) -> None:
    group = optimizer.param_groups[0]
    group["params"] = [nn.Parameter(p.detach().clone()) for p in group["params"]]


def one_less(optimizer: torch.optim.Optimizer) -> None:
    del optimizer.param_groups[0]["params"][-1]


@pytest.mark.parametrize("replace", [flat, empty, clones, one_less])
def test_groups_that_are_replaced_after_attach_are_an_error(replace: Callable[[torch.optim.Optimizer], None]) -> None:
    parts, plan = setting()
    optimizer = torch.optim.SGD(trained_parameters(parts), lr=0.1)
    attach(plan, optimizer)
    replace(optimizer)
    projector_loss(parts)().backward()
    with pytest.raises(HoldError, match="held, but not in the optimizer"):
        optimizer.step()


@pytest.mark.parametrize("launched", ["2", "8"])
def test_processes_that_do_not_know_of_each_other_are_refused(launched: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, plan = setting()
    optimizer = torch.optim.SGD(trained_parameters(parts), lr=0.1)
    monkeypatch.setenv("WORLD_SIZE", launched)
    with pytest.raises(HoldError, match=f"started {launched} processes .* in a group of 1"):
        attach(plan, optimizer)
    # accelerate without cpu=True: torch's group has them all, and each trains alone
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: int(launched))
    prepared = SimpleNamespace(
        optimizer=optimizer, param_groups=optimizer.param_groups, accelerator_state=SimpleNamespace(num_processes=1)
    )
    with pytest.raises(HoldError, match=f"started {launched} processes .* in a group of 1"):
        attach(plan, prepared)
    prepared.accelerator_state.num_processes = int(launched)
    attach(plan, prepared)
    monkeypatch.undo()
    monkeypatch.setenv("WORLD_SIZE", "1")
    attach(plan, optimizer)
