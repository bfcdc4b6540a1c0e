"""Holds on every kind of projector: exact rules where they are exact, else refused, and the penalty on each."""

from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.held_models import train
from helpers.tiny_families import TINY
from helpers.tiny_models import tiny_inputs, tiny_vlm
from textanchor.errors import HoldError, ModelError
from textanchor.holds import Anchor, FilterConfig, HoldPlan, attach, plan_holds
from textanchor.holds.legal import require_last
from textanchor.vlm.capture import capture_inputs
from textanchor.vlm.names import base_modules
from textanchor.vlm.parts import VLMParts, find_parts

KINDS = {
    "llava": "MLP",
    "idefics3": "pixel shuffle and linear",
    "internvl": "pixel shuffle and MLP",
    "qwen2_vl": "patch merger",
    "idefics2": "resampler",
    "blip_2": "Q-Former",
    "aria": "cross-attention",
    "gemma3": "bare parameter",
    "florence2": "linear and norm",
}
BY_FUNCTION_ONLY = {"gemma3"}
NOT_BY_OUTPUTS = {"gemma3", "idefics2", "florence2"}


def trained_projector(family: str) -> tuple[VLMParts, dict[str, Any]]:
    parts = find_parts(tiny_vlm(family).requires_grad_(False))
    torch.manual_seed(0)
    for parameter in parts.parameters_of("vision_tower").values():
        parameter.data.mul_(5 if parameter.ndim > 1 else 1)  # with its default of .02, images hardly matter to it
    for parameter in parts.parameters_of("projector").values():
        parameter.data.add_(0.2 * torch.randn_like(parameter))  # queries and some weights start as constants
        parameter.requires_grad_(True)
    return parts, tiny_inputs(family)


class _Given(Exception):
    """Ends a forward pass where the language model would begin."""


def run(parts: VLMParts, inputs: dict[str, Any]) -> Tensor:
    """What the projector's last module gives."""
    given: list[Tensor] = []

    def hook(_: nn.Module, args: Any, output: Tensor) -> None:
        given.append(output)
        raise _Given

    # the last of its hooks, after that of a penalty
    handle = parts.module(parts.projector_output).register_forward_hook(hook)
    with suppress(_Given):
        parts.model(**inputs)
    handle.remove()
    return given[0].reshape(-1, given[0].shape[-1])


def anchor_of(parts: VLMParts, inputs: dict[str, Any]) -> Anchor:
    """The inputs of all linears on one image, and some text."""
    states: dict[str, Tensor] = {}
    with torch.no_grad():
        sources = capture_inputs(
            parts.model,
            list(parts.projector_linears()),
            lambda: run(parts, inputs),
            lambda name, rows: states.update(
                {name: torch.cat([states[name], rows]) if name in states else rows.clone()}
            ),
        )
    moments = {f"inputs/{name}": Anchor.from_states(rows).moments["states"] for name, rows in states.items()}
    aliases = {f"inputs/{name}": f"inputs/{source}" for name, source in sources.items()}
    text = Anchor.from_states(torch.randn(200, parts.embedding_width()) + 0.5).moments["states"]
    return Anchor(moments | {"text_embedding": text}, aliases)


def held(parts: VLMParts, inputs: dict[str, Any], plan: HoldPlan, steps: int = 4, lr: float = 1e-2):
    """Train the visual tokens towards random ones."""
    with torch.no_grad():
        targets = torch.randn_like(run(parts, inputs))
    plan.freeze()
    optimizer = torch.optim.AdamW((p for p in parts.model.parameters() if p.requires_grad), lr=lr)
    handle = attach(plan, optimizer)
    term = handle.penalty or (lambda: torch.zeros(()))
    train(lambda: (run(parts, inputs) - targets).square().mean() + term(), optimizer, steps)
    return handle


@pytest.mark.parametrize("family", TINY)
def test_outputs_of_a_last_linear_are_held_only_where_they_are_the_visual_tokens(family: str) -> None:
    """The rule on what comes after the last linear, by registration, against what a forward pass shows."""
    parts, inputs = trained_projector(family)
    try:
        name, linear = parts.last_projector_linear()
    except ModelError as error:
        assert "hold='penalty'" in str(error)
        return
    written: list[Tensor] = []
    handle = linear.register_forward_hook(lambda _, args, output: written.append(output.detach()))
    with torch.no_grad():
        tokens = run(parts, inputs)
    handle.remove()
    rows = torch.cat([states.reshape(-1, states.shape[-1]) for states in written])
    is_last = rows.shape == tokens.shape and torch.equal(rows, tokens)
    if is_last:
        require_last(parts, name)
    else:
        with pytest.raises(HoldError, match=r"comes after it.*hold='penalty'"):
            require_last(parts, name)
    assert is_last != (family in NOT_BY_OUTPUTS)


@pytest.mark.parametrize("family", KINDS)
def test_by_inputs_the_projector_does_on_its_references_what_it_did(family: str) -> None:
    parts, inputs = trained_projector(family)
    config = FilterConfig(mode="inputs", kept_energy=1.0)
    if family in BY_FUNCTION_ONLY:
        with pytest.raises(HoldError, match="hold='penalty'"):
            plan_holds(parts, anchor_of(parts, inputs), config)
        return
    with torch.no_grad():
        before = run(parts, inputs)
    plan = plan_holds(parts, anchor_of(parts, inputs), config)
    assert len(plan.linears) == len(parts.projector_linears())
    frozen = {tensor.name for tensor in plan.tensors if tensor.rule == "frozen"}
    assert all(not name.endswith("weight") or f"{name[:-7]}" not in parts.projector_linears() for name in frozen)
    other = inputs | {"pixel_values": 10 * torch.randn_like(inputs["pixel_values"]) + 20}
    with torch.no_grad():
        other_before = run(parts, other)
    held(parts, other, plan)
    with torch.no_grad():
        moved, moved_other = run(parts, inputs) - before, run(parts, other) - other_before
    assert moved_other.norm() > 20 * moved.norm()
    assert moved.abs().max() < 2e-3 * max(1.0, float(before.abs().max()))


@pytest.mark.parametrize("family", KINDS)
def test_by_outputs_the_text_directions_of_the_visual_tokens_stay(family: str) -> None:
    parts, inputs = trained_projector(family)
    config = FilterConfig(mode="outputs", num_kept=6)
    if family in NOT_BY_OUTPUTS:
        with pytest.raises((HoldError, ModelError), match="hold='penalty'"):
            plan_holds(parts, anchor_of(parts, inputs), config)
        return
    plan = plan_holds(parts, anchor_of(parts, inputs), config)
    with torch.no_grad():
        before = run(parts, inputs).double()
    held(parts, inputs, plan)
    with torch.no_grad():
        change = run(parts, inputs).double() - before
    (linear,) = plan.linears
    assert change.norm() > 1e-2
    assert linear.subspace.protected(change).norm() < 1e-4 * change.norm()


@pytest.mark.parametrize("family", KINDS)
def test_a_penalty_holds_any_kind_by_its_function(family: str) -> None:
    leaks = {}
    for strength in (1e-6, 300.0):
        torch.manual_seed(1)
        parts, inputs = trained_projector(family)
        config = FilterConfig(mode="outputs", num_kept=6, hold="penalty", strength=strength)
        plan = plan_holds(parts, anchor_of(parts, inputs), config)
        assert plan.projector is not None
        with torch.no_grad():
            before = run(parts, inputs).double()
        held(parts, inputs, plan, steps=20, lr=2e-2)
        with torch.no_grad():
            change = run(parts, inputs).double() - before
        assert change.norm() > 1e-2
        leaks[strength] = float(plan.projector.subspace.protected(change).norm() / change.norm())
    assert leaks[300.0] < leaks[1e-6] / 2


def test_only_what_the_held_module_is_made_of_trains_under_a_penalty() -> None:
    parts, inputs = trained_projector("blip_2")
    plan = plan_holds(parts, anchor_of(parts, inputs), FilterConfig(mode="outputs", num_kept=6, hold="penalty"))
    assert {name.partition(".")[0] for name in plan.trained} == {"language_projection"}
    modules = base_modules(parts.model)
    assert isinstance(modules["language_projection"], nn.Linear)
    frozen = {tensor.name: tensor.why for tensor in plan.tensors if tensor.rule == "frozen"}
    assert frozen["query_tokens"] == "outside language_projection, whose function is held"
