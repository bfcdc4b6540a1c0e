"""A plan for one linear without any model around it."""

from typing import Any

from torch import nn

from textanchor.config import from_dict
from textanchor.errors import HoldError
from textanchor.holds.anchor import STATES, Anchor
from textanchor.holds.bases import Filters
from textanchor.holds.entries import FROZEN, HeldTensor
from textanchor.holds.filter import FilterConfig
from textanchor.holds.legal import require_legal
from textanchor.holds.linear import Side, held_linear
from textanchor.holds.plan import HoldPlan, rows_of
from textanchor.holds.sources import BOTTOM, IDENTITY, OWN_INPUTS, RANDOM, TEXT_EMBEDDING
from textanchor.holds.targets import find_targets
from textanchor.spectral.precision import working
from textanchor.vlm.names import base_parameters


def plan_linear(anchor: Anchor, linear: nn.Module, side: Side, options: dict[str, Any]) -> HoldPlan:
    """Plan for one linear by the one sample of an anchor; see `Anchor.plan`."""
    options = {"mode": "inputs" if side == "in" else "outputs"} | options
    config = from_dict(FilterConfig, options, source="Anchor.plan")
    fits_side = config.mode == "inputs" if side == "in" else config.mode in ("outputs", "manifold")
    if not fits_side or config.hold == "penalty" or config.inner is not None:
        raise HoldError(
            f"side {side!r} with mode={config.mode!r}, hold={config.hold!r}, inner={config.inner!r} is not legal for "
            "one linear; legal are inputs with side 'in', outputs and manifold with 'out', and exact, share, decay"
        )
    if config.basis not in (OWN_INPUTS, TEXT_EMBEDDING, RANDOM, BOTTOM, IDENTITY):
        raise HoldError(
            f"basis={config.basis!r} is not legal for one linear, whose directions come from the states of this "
            "anchor; legal are these (leave basis out), random, bottom and identity"
        )
    if list(anchor.moments) != [STATES]:
        raise HoldError(
            "Anchor.plan is for anchors made by Anchor.from_states; use plan_holds with those of fit_anchor"
        )
    parameters = base_parameters(linear)
    targets, frozen = find_targets(linear, parameters, [""])
    if len(targets) != 1:
        raise HoldError(f"{type(linear).__name__}: expected one linear whose weight (or LoRA update) is trained")
    (target,) = targets.values()
    require_legal(config, target)
    filters = Filters(anchor, config, working(parameters.values()))
    subspace = filters.inputs(target, STATES) if side == "in" else filters.outputs(target, STATES)
    rows = [HeldTensor(name=name, part="linear", rule=FROZEN, why=why) for name, why in frozen.items()]
    linear_held = held_linear(target, side, subspace, config, parameters, is_text_writer=False, keep_base=True)
    return HoldPlan(
        tensors=(*rows, *rows_of(target, side, subspace, config, "linear")),
        linears=(linear_held,),
        paths={"linear": ("",)},
        model=linear,
    )
