"""What a hold needs of an optimizer: a step that moves the weights, its groups, and whether it left a step out.

And what it may do before the step: keep the protected part out of the gradients.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from textanchor.errors import HoldError
from textanchor.holds.bound import BoundLinear
from textanchor.holds.plan import listed

# their lr is scaled by the weights (Adafactor) or by a distance that they estimate, or a line search replaces it
NOT_STEP_SIZE = ("adafactor", "prodigy", "dadapt", "lbfgs", "rprop")

INNER = ("optimizer", "base_optimizer", "base")
"""Where wrappers keep the optimizer inside: accelerate, DeepSpeed and Lookahead; SAM; schedulefree's wrapper."""


def stepping_optimizer(optimizer: Any) -> Optimizer:
    """The torch optimizer whose step is the last to move the weights; its hooks fire after each.

    It is inside accelerate's wrapper, and inside SAM, whose own step nobody calls who calls first_step and second_step;
    of others that wrap an optimizer (Lookahead) it is the outer one. HoldError where there is none, and where weights
    move outside its step.
    """
    for layer in _layers(optimizer):
        _require_steps_only(layer)
    for layer in _layers(optimizer):
        if _has_hooks(layer) and not hasattr(layer, "first_step"):
            return layer
    raise HoldError(
        f"attach needs a torch optimizer, alone or in a wrapper (accelerate, SAM), found {type(optimizer).__name__}"
    )


def _layers(optimizer: Any) -> Iterator[Any]:
    """An optimizer and those inside it, from the outside in."""
    while hasattr(optimizer, "param_groups"):
        yield optimizer
        inside = (getattr(optimizer, name, None) for name in INNER)
        optimizer = next((found for found in inside if hasattr(found, "param_groups")), None)


def _has_hooks(layer: Any) -> bool:
    """Whether it is a torch optimizer itself, which accelerate's wrapper only inherits from."""
    return isinstance(layer, Optimizer) and hasattr(layer, "_optimizer_step_post_hooks")


def _require_steps_only(layer: Any) -> None:
    """Raise HoldError where an optimizer is known by its methods to move weights outside its step."""
    name = type(layer).__name__
    if hasattr(layer, "fused_backward"):
        raise HoldError(
            f"{name} moves weights inside the backward pass (fused_backward, as LOMO), and no step comes after which a "
            "rule could act; use an optimizer that has one, such as AdamW or Adafactor, or train LoRA to save memory"
        )
    is_wrapper = isinstance(layer, Optimizer) and not _has_hooks(layer)  # accelerate's passes train and eval on
    if not is_wrapper and any(callable(getattr(layer, mode, None)) for mode in ("train", "eval")):
        raise HoldError(
            f"{name} trains one set of weights and gives another one after its eval(), as schedule-free optimizers do: "
            "a rule after its step holds the first, not the second, which is what is used and saved. Use an optimizer "
            "without train() and eval(), such as AdamW with a schedule"
        )
    if hasattr(layer, "first_step") and not any(_has_hooks(inner) for inner in list(_layers(layer))[1:]):
        raise HoldError(
            f"{name} moves weights by first_step and further methods, and has no base_optimizer whose step could be "
            "watched; use SAM over a base optimizer"
        )


def groups_by_parameter(optimizer: Optimizer, held: Mapping[str, Tensor]) -> dict[int, dict[str, Any]]:
    """id of each parameter -> its group; HoldError where one that is held has none."""
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, parameter in held.items() if id(parameter) not in groups]
    if len(missing) == len(held) > 0:
        raise HoldError(
            f"{listed(missing)}: held, but not in the optimizer; {type(optimizer).__name__} has nothing of what is "
            "held. DeepSpeed's ZeRO (in deepspeed.initialize, also after attach) and FSDP1 put flat copies in the "
            "place of weights, layer-wise optimizers move each weight by an optimizer of its own, and no rule can "
            "follow there: train with DDP or FSDP2 (fully_shard) and an optimizer of the weights themselves. Otherwise "
            "give it the parameters of this model, and attach after the model is prepared (DDP, accelerate)"
        )
    if missing:
        raise HoldError(
            f"{listed(missing)}: held, but not in the optimizer. Give it the parameters of this model, and attach "
            "after the model is prepared (DDP, accelerate)"
        )
    return groups


def require_step_size(optimizer: Optimizer) -> None:
    """Raise HoldError where lr is not the size of a step, which `decay` is tied to."""
    name = type(optimizer).__name__
    is_scaled = any(
        g.get("relative_step") or g.get("scale_parameter") or g.get("lr") is None for g in optimizer.param_groups
    )
    if is_scaled or any(word in name.lower() for word in NOT_STEP_SIZE):
        raise HoldError(
            f"hold='decay' decays by lr at each step, but {name}'s lr is not the size of its steps; "
            "use AdamW or SGD, or hold='exact' or 'share', which do not depend on it"
        )


def without_weight_decay(optimizer: Optimizer, held: Mapping[str, nn.Parameter]) -> None:
    """Set the weight decay of held tensors to zero, splitting groups that they share with others.

    HoldError where a group would have to be split after a scheduler or saved state has taken note of the groups.
    """
    ids = {id(parameter) for parameter in held.values()}
    for group in list(optimizer.param_groups):
        inside = [parameter for parameter in group["params"] if id(parameter) in ids]
        if not inside or not group.get("weight_decay"):
            continue
        if len(inside) == len(group["params"]):
            group["weight_decay"] = 0.0
            continue
        if "initial_lr" in group or optimizer.state:
            names = [name for name, parameter in held.items() if any(parameter is p for p in inside)]
            raise HoldError(
                f"{names[0]} and {len(names) - 1} more held tensors are in a parameter group with weight_decay="
                f"{group['weight_decay']} and tensors that are not held; it would pull them off their start, and a "
                "scheduler or earlier steps forbid splitting the group. Give the tensors of plan.trained a group of "
                "their own with weight_decay=0, or attach before the scheduler is made"
            )
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in ids]
        options = {key: value for key, value in group.items() if key != "params"}
        optimizer.add_param_group(options | {"params": inside, "weight_decay": 0.0})


def is_skipped(optimizer: Optimizer) -> bool:
    """Whether a GradScaler found gradients that are not finite and left the step out.

    A fused optimizer is called all the same: the scaler hands it `found_inf` for the time of its step.
    """
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


class GradientProjection:
    """gradients="projected": watches the gradients of held linears until `remove()`.

    The protected part is kept out of the gradients too, so that clipping and the optimizer's moments are those of what
    is learned. The rule after each step stays: a projected gradient alone does not hold a weight. It acts as soon as
    all gradients of a linear have been accumulated in a backward pass, so before they are clipped; projecting a sum of
    micro-batches is projecting each.
    """

    def __init__(self, bound: Sequence[BoundLinear]) -> None:
        if dist.is_initialized() and dist.get_world_size() > 1:
            raise HoldError(
                "gradients='projected' acts before the processes exchange gradients, so it is for one process; set "
                "gradients='whole', under which the weights are held all the same"
            )
        self._handles: list[Any] = []
        for linear in bound:
            arrived: set[int] = set()
            for tensor in linear.tensors:
                self._handles.append(tensor.register_post_accumulate_grad_hook(_projecting(linear, arrived)))

    def remove(self) -> None:
        """Leave the gradients alone."""
        for handle in self._handles:
            handle.remove()


def _projecting(linear: BoundLinear, arrived: set[int]):
    @torch.no_grad()
    def hook(tensor: Tensor) -> None:
        arrived.add(id(tensor))
        if len(arrived) == len(linear.tensors):
            arrived.clear()
            gradients = tuple(held.grad for held in linear.tensors if held.grad is not None)
            replace(linear, tensors=gradients, reference=None).damp(0.0)

    return hook
