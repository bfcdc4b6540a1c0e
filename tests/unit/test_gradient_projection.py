"""gradients="projected": what is clipped and accumulated has no protected part, and the weight is held as before."""

import pytest
import torch
from torch import Tensor

from helpers.held_models import plan_for, projector_loss, train, trained_by_lora, trained_in_full, trained_parameters
from textanchor.holds import attach

LAST = "model.multi_modal_projector.linear_2"
MODES = ("outputs", "manifold", "inputs", "coupling")


def protected_part(handle, tensors: list[Tensor]) -> float:
    """Share of a change of the held tensors, dense, that lies in protected directions."""
    (bound,) = [bound for bound in handle._bound if bound.linear.name == LAST]
    if bound.linear.is_lora:
        a_rI, b_Or = (tensor.double() for tensor in tensors)
        if bound.across is not None:
            parts = [bound.across.protected(b_Or.T[:2]), bound.subspace.protected(a_rI[2:])]
            return float(sum(part.norm() for part in parts))
        held = b_Or.T if bound.linear.side == "out" else a_rI
        return float(bound.subspace.protected(held).norm() / held.norm())
    weight, bias = (tensor.double() for tensor in tensors)
    rows = torch.cat([weight, bias[:, None]], dim=1) if bound.linear.side == "in" else torch.cat([weight.T, bias[None]])
    part = bound.subspace.protected(rows)
    part = part if bound.across is None else bound.across.protected(part.T).T
    return float(part.norm() / rows.norm())


@pytest.mark.parametrize("is_lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("mode", MODES)
def test_accumulated_gradients_have_no_protected_part(mode: str, is_lora: bool) -> None:
    parts = trained_by_lora([LAST]) if is_lora else trained_in_full("projector")
    plan = plan_for(parts, mode=mode, gradients="projected")
    plan.freeze()
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-2)
    handle = attach(plan, optimizer)
    train(projector_loss(parts), optimizer, steps=2)  # B of LoRA starts at zero, and so does the gradient of A
    optimizer.zero_grad()
    for seed in (1, 2):
        projector_loss(parts, seed)().backward()
    named = plan.parameters()
    (linear,) = [linear for linear in plan.linears if linear.name == LAST]
    gradients = [named[name].grad for name in linear.tensors]
    assert protected_part(handle, gradients) < 1e-6
    handle.audit().require_kept()
    handle.remove()
    optimizer.zero_grad()
    projector_loss(parts, 1)().backward()
    assert protected_part(handle, [named[name].grad for name in linear.tensors]) > 1e-2


def test_the_moments_of_adam_are_those_of_what_may_move() -> None:
    states = {}
    for gradients in ("whole", "projected"):
        parts = trained_in_full("projector")
        plan = plan_for(parts, gradients=gradients)
        plan.freeze()
        optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-2)
        handle = attach(plan, optimizer)
        train(projector_loss(parts), optimizer, steps=5)
        handle.audit().require_kept()
        moment = optimizer.state[parts.module(LAST).weight]["exp_avg"]
        subspace = plan.linears[0].subspace
        states[gradients] = float(subspace.protected(moment.double().T).norm() / moment.norm())
    assert states["projected"] < 1e-6 < 0.05 < states["whole"]
