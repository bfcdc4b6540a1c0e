"""What a hold needs of an optimizer: the inner one, step sizes, weight decay, and whether a step was left out."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from textanchor.errors import HoldError

# their lr is scaled by the weights (Adafactor) or by a distance that they estimate, or a line search replaces it
NOT_STEP_SIZE = ("adafactor", "prodigy", "dadapt", "lbfgs", "rprop")


def inner_optimizer(optimizer: Any) -> Optimizer:
    """The torch optimizer inside accelerate's wrapper, whose step hooks fire; HoldError where there is none."""
    inner = getattr(optimizer, "optimizer", optimizer)
    if not isinstance(inner, Optimizer):
        raise HoldError(f"attach needs a torch optimizer (accelerate may wrap it), found {type(optimizer).__name__}")
    return inner


def groups_by_parameter(optimizer: Optimizer) -> dict[int, dict[str, Any]]:
    """id of each parameter -> its group."""
    return {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}


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
