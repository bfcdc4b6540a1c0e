"""hold="penalty": the term against its formula, what it watches, and that it holds the function."""

import pytest
import torch

from helpers.held_models import plan_for, probe_of, projector_loss, trained_in_full, trained_parameters
from textanchor.errors import HoldError
from textanchor.holds import HoldHandle, attach
from textanchor.vlm.parts import VLMParts


def penalized(lr: float = 1e-2, **options) -> tuple[VLMParts, torch.optim.Optimizer, HoldHandle]:
    parts = trained_in_full("projector")
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=lr)
    handle = attach(plan_for(parts, **({"mode": "outputs", "hold": "penalty"} | options)), optimizer)
    assert handle.penalty is not None
    return parts, optimizer, handle


@pytest.mark.parametrize("mode", ["outputs", "manifold"])
@pytest.mark.parametrize("gains", ["top", "ridge"])
def test_the_term_is_its_formula(mode: str, gains: str) -> None:
    parts, _, handle = penalized(mode=mode, gains=gains, strength=3.0)
    projector = parts.module(parts.projector[0])
    before, after = (torch.randn(2, 5, 24) for _ in range(2))
    with torch.no_grad():
        start = torch.cat([projector(before), projector(after)]).reshape(-1, 32).double()
        for parameter in projector.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    now = torch.cat([projector(before), projector(after)]).reshape(-1, 32).double()  # two calls, one term
    term = handle.penalty()
    held = handle.plan.projector.subspace
    gains_D = torch.linalg.eigvalsh(held.protected(torch.eye(32, dtype=torch.float64)))
    protection = held.protected(torch.eye(32, dtype=torch.float64))
    energy = torch.einsum("nd,de,ne->n", now - start, protection, now - start).mean()
    spread = (start - start.mean(0)).square().sum(1).mean()
    assert float(gains_D.min()) > -1e-12
    assert float(term.detach()) == pytest.approx(3.0 * float((energy / spread).detach()), rel=1e-4)
    assert term.requires_grad
    assert not handle.penalty().requires_grad  # called again without a forward pass


def test_it_is_zero_at_the_start_and_watches_only_passes_with_gradients() -> None:
    parts, _, handle = penalized()
    projector = parts.module(parts.projector[0])
    with torch.no_grad():
        projector(torch.randn(3, 24))
    assert not handle.penalty().requires_grad
    projector(torch.randn(3, 24))
    assert handle.penalty().item() == 0.0
    projector(torch.ones(4, 24))
    with pytest.raises(HoldError, match="spread"):
        handle.penalty()
    handle.remove()
    projector(torch.randn(3, 24))
    assert not handle.penalty().requires_grad


def function_leak(strength: float | None) -> float:
    parts, optimizer, handle = penalized(strength=strength or 1.0)
    probe, loss = probe_of(parts), projector_loss(parts)
    for _ in range(60):
        optimizer.zero_grad()
        task, term = loss(), handle.penalty()
        (task + term if strength else task).backward()
        optimizer.step()
    report = handle.audit(probe=probe)
    assert report.rows[-1].function_leak == report.projector.leak
    assert report.projector.relative_change > 0.1
    return report.projector.leak


def test_it_keeps_the_function_and_leaves_the_rest_free() -> None:
    free, held = function_leak(None), function_leak(300.0)
    assert held < free / 4


def test_the_term_does_not_train_its_frozen_copy_and_the_copy_is_saved() -> None:
    parts, optimizer, handle = penalized()
    before = {name: value.clone() for name, value in handle.penalty.frozen.state_dict().items()}
    (projector_loss(parts)() + handle.penalty()).backward()
    optimizer.step()
    state = handle.state_dict()
    for name, value in handle.penalty.frozen.state_dict().items():
        assert torch.equal(value, before[name])
        assert torch.equal(state["values"][f"projector/{name}"], before[name])
    handle.remove()
    again = attach(handle.plan, optimizer, state=state)
    assert torch.equal(again.penalty.frozen.linear_1.weight, before["linear_1.weight"])
