"""What a hold needs of an optimizer: the inner one, step sizes, weight decay, and whether a tensor has moved."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
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


def fingerprints(groups: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """(G, 2) numbers on the CPU that change whenever a tensor of the group does; one transfer for all groups.

    The hash alone misses changes that cancel in its exclusive or (all entries equal before and after), the norm alone
    those below its rounding.
    """
    rows = [torch.stack([_fingerprint(tensor) for tensor in tensors]).sum(0) for tensors in groups]
    return torch.stack(rows).cpu() if rows else torch.zeros(0, 2, dtype=torch.int64)


def _fingerprint(tensor: Tensor) -> Tensor:
    if not tensor.numel():  # a process of FSDP2 may hold no row
        return torch.zeros(2, dtype=torch.int64, device=tensor.device)
    norm = torch.linalg.vector_norm(tensor).double()
    return torch.stack([torch.hash_tensor(tensor).view(torch.int64), norm.view(torch.int64)])
