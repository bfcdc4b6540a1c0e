"""The promise of `exact`: after any number of optimizer steps nothing of the change lies in protected directions."""

import pytest
import torch
from torch import Tensor, nn

from helpers.held_models import (
    plan_for,
    probe_of,
    projector_loss,
    text_loss,
    train,
    trained_by_lora,
    trained_in_full,
    trained_parameters,
)
from textanchor.holds import AuditReport, HoldPlan, Probe, attach
from textanchor.vlm.parts import VLMParts

MODES = ("outputs", "manifold", "inputs")
RATES = (1e-2, 1e-5)


def require_kept(report: AuditReport) -> None:
    """Every row within its bound by weight and by function, though every linear moved."""
    assert report.rows
    for row in report.rows:
        assert row.weight_leak is not None and row.bound is not None and row.relative_update is not None
        assert row.relative_update > 1e-6, f"{row.name} did not move, so it shows nothing"
        assert row.weight_leak <= row.bound
        assert row.function_leak is None or row.function_leak <= row.bound
    report.require_kept()


def projector_parts(is_lora: bool) -> VLMParts:
    linears = ["model.multi_modal_projector.linear_1", "model.multi_modal_projector.linear_2"]
    return trained_by_lora(linears) if is_lora else trained_in_full("projector")


def audit_after_training(
    parts: VLMParts, plan: HoldPlan, loss, optimizer: torch.optim.Optimizer, probe: Probe | None = None
) -> AuditReport:
    handle = attach(plan, optimizer)
    train(loss, optimizer)
    return handle.audit(probe=probe)


@pytest.mark.parametrize("lr", RATES)
@pytest.mark.parametrize("is_lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("mode", MODES)
def test_projector_keeps_its_promise_under_adamw_with_weight_decay(mode: str, is_lora: bool, lr: float) -> None:
    parts = projector_parts(is_lora)
    probe = probe_of(parts)
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=lr, weight_decay=0.1)
    report = audit_after_training(parts, plan_for(parts, mode=mode), projector_loss(parts), optimizer, probe)
    require_kept(report)
    assert len(report.rows) == (2 if mode == "inputs" else 1)
    assert all(row.function_leak is not None for row in report.rows)


@pytest.mark.parametrize("lr", RATES)
def test_language_model_keeps_its_inputs_under_lora(lr: float) -> None:
    parts = trained_by_lora()
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=lr, weight_decay=0.1)
    plan = plan_for(parts, "language_model", mode="inputs", kept_energy=0.7)
    report = audit_after_training(parts, plan, text_loss(parts), optimizer)
    require_kept(report)
    assert len(report.rows) == 14


@pytest.mark.parametrize("mode", MODES)
def test_language_model_keeps_its_promise_in_full(mode: str) -> None:
    parts = trained_in_full("language_model")
    if mode != "inputs":
        for name, parameter in parts.parameters_of("language_model").items():
            parameter.requires_grad_("o_proj" in name or "down_proj" in name)
    base = {name: p.detach().clone() for name, p in parts.parameters_of("language_model").items()}
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-3, weight_decay=0.1)
    plan = plan_for(parts, "language_model", mode=mode)
    attach(plan, optimizer)
    train(text_loss(parts), optimizer)
    for linear in plan.linears:
        (name,) = linear.tensors
        change = (parts.parameters_of("language_model")[name].detach() - base[name]).double()
        rows = change if linear.side == "in" else change.T
        leak = linear.subspace.protected(rows).norm() / change.norm()
        eps = torch.finfo(torch.float32).eps
        assert change.norm() > 0
        assert leak <= 1e-6 + 2 * eps * base[name].norm() / change.norm()
    # what no rule covers (norms, embedding, head) is frozen
    free = {name for name, p in parts.parameters_of("language_model").items() if not torch.equal(p, base[name])}
    assert free == {name for linear in plan.linears for name in linear.tensors}


def test_a_rule_on_gradients_only_breaks_the_promise() -> None:
    parts = trained_in_full("projector")
    plan = plan_for(parts, mode="outputs")
    plan.freeze()
    (linear,) = plan.linears
    named = plan.parameters()

    def without_protected_part(grad: Tensor) -> Tensor:
        rows = grad.reshape(len(grad), -1).T.double()
        return grad - linear.subspace.protected(rows).T.reshape(grad.shape).to(grad)

    for name in linear.tensors:
        named[name].register_hook(without_protected_part)
    train(projector_loss(parts), torch.optim.AdamW(trained_parameters(parts), lr=1e-2))
    (row,) = plan.audit().rows
    assert row.weight_leak is not None and row.bound is not None
    assert row.weight_leak > 0.1 > 1000 * row.bound
    assert not row.is_kept


def test_an_inner_linear_left_free_breaks_the_promise_of_the_function_only() -> None:
    parts = trained_in_full("projector")
    plan, probe = plan_for(parts, mode="outputs"), probe_of(parts)
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-2)
    handle = attach(plan, optimizer)
    for parameter in parts.projector_linears()["model.multi_modal_projector.linear_1"].parameters():
        parameter.requires_grad_(True)
    train(projector_loss(parts), optimizer)
    (row,) = handle.audit(probe=probe).rows
    assert row.is_kept
    assert row.function_leak is not None and row.bound is not None
    assert row.function_leak > 0.01 > 1000 * row.bound


def test_the_same_run_without_a_hold_moves_in_protected_directions() -> None:
    parts = trained_in_full("projector")
    plan, probe = plan_for(parts, mode="outputs"), probe_of(parts)
    plan.freeze()
    train(projector_loss(parts), torch.optim.AdamW(trained_parameters(parts), lr=1e-2))
    report = plan.audit(probe=probe)
    (row,) = report.rows
    assert not row.is_kept
    assert row.function_leak is not None and row.function_leak > 0.05


def test_a_plain_linear_of_any_shape_is_held_on_both_sides() -> None:
    from textanchor.holds import Anchor

    for side, mode in (("in", "inputs"), ("out", "outputs"), ("out", "manifold")):
        for num_kept in (3, 17):  # below and above half of the directions
            linear = nn.Linear(20, 20, bias=side == "in" or num_kept == 3)
            states = torch.randn(200, 20) @ torch.randn(20, 20) + 1
            plan = Anchor.from_states(states).plan(linear, side, mode=mode, num_kept=num_kept)
            optimizer = torch.optim.AdamW(linear.parameters(), lr=1e-2)
            handle = attach(plan, optimizer)
            inputs, targets = torch.randn(64, 20), torch.randn(64, 20)
            train(lambda: (linear(inputs) - targets).square().mean(), optimizer, steps=20)  # noqa: B023
            handle.audit().require_kept()
            assert handle.audit().rows[0].relative_update > 1e-3
            if side == "in":  # what the linear did on the held inputs stays, bias included
                direction = plan.linears[0].subspace
                assert direction.width == 21
