"""Pullback: the metric at an inner linear against brute force, and that it holds more than nothing."""

import pytest
import torch
from torch import nn

from helpers.held_models import (
    image_features,
    noise_images,
    plan_for,
    probe_of,
    projector_loss,
    tiny_anchor,
    train,
    trained_in_full,
    trained_parameters,
)
from textanchor.errors import HoldError
from textanchor.holds import Anchor, FilterConfig, attach, plan_holds
from textanchor.holds.pullback import elementwise_slopes, pulled_back

INNER, LAST = (f"model.multi_modal_projector.linear_{i}" for i in (1, 2))


def test_metric_is_positive_and_gives_the_protected_energy_of_small_changes() -> None:
    parts = trained_in_full("projector")
    text_space = plan_for(parts, mode="outputs").linears[0].subspace
    metric = pulled_back(parts, tiny_anchor(), text_space, INNER)
    values = torch.linalg.eigvalsh(metric)
    assert values.min() > -1e-12 * values.max()
    # brute force, on the images that the anchor has seen: add a small dz to what linear_1 gives
    linear, last = parts.projector_linears()[INNER], parts.projector_linears()[LAST]
    seen: list[torch.Tensor] = []
    handle = linear.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    image_features(parts, noise_images(8))
    handle.remove()
    z = seen[0].reshape(-1, 32).double()
    activation, weight = parts.module("model.multi_modal_projector.act"), last.weight.detach().double()
    for _ in range(3):
        dz = torch.randn(32, dtype=torch.float64)
        moved = (activation(z + 1e-5 * dz) - activation(z)) / 1e-5 @ weight.T
        energy = text_space.protected(moved).square().sum(1).mean()
        assert float(dz @ metric @ dz) == pytest.approx(float(energy), rel=1e-3)


def function_leak(inner_is_held: bool) -> float:
    parts = trained_in_full("projector")
    plan, probe = plan_for(parts, mode="outputs", inner="pullback", num_kept=20), probe_of(parts)
    optimizer = torch.optim.AdamW(trained_parameters(parts), lr=1e-3)
    handle = attach(plan, optimizer)
    if not inner_is_held:
        handle._bound = [bound for bound in handle._bound if bound.linear.name != INNER]
    train(projector_loss(parts), optimizer, steps=30)
    report = handle.audit(probe=probe)
    report.require_kept()
    assert report.projector.relative_change > 0.02
    return report.projector.leak


def test_pullback_holds_the_function_better_than_a_free_inner_linear() -> None:
    assert function_leak(inner_is_held=True) < function_leak(inner_is_held=False) / 2


def test_without_slopes_it_is_refused() -> None:
    full = tiny_anchor()
    anchor = Anchor({name: moments for name, moments in full.moments.items() if not name.startswith("slopes/")})
    with pytest.raises(HoldError, match="elementwise activation"):
        plan_holds(trained_in_full("projector"), anchor, FilterConfig(mode="outputs", num_kept=8, inner="pullback"))


def test_only_elementwise_modules_have_slopes() -> None:
    z = torch.randn(5, 6)
    torch.testing.assert_close(elementwise_slopes(nn.Tanh(), z), 1 - z.tanh() ** 2)
    assert elementwise_slopes(nn.Softmax(-1), z) is None
    assert elementwise_slopes(nn.GLU(), z) is None
