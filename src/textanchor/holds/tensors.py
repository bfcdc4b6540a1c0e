"""Weights as they are stored: quantised ones as numbers, and sharded ones gathered.

Quantisers keep integers in a plain tensor (bitsandbytes) or in a tensor subclass around several (torchao).

Parameters that FSDP2 shards are gathered for a rule, and each process writes its own part back. Every process then
works out the same rule on the same numbers, so any rule and any (uneven) sharding gives what one process gives. All of
it is collective: every process must come here for the same tensors in the same order.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from textanchor.errors import HoldError
from textanchor.vlm.hashing import is_wrapper


def is_quantized(weight: Tensor) -> bool:
    """Whether the values are not the stored numbers themselves."""
    return not weight.is_floating_point() or is_wrapper(weight)


def dense(weight: Tensor) -> Tensor | None:
    """The values of a weight; None where only its quantiser can tell them."""
    if not is_quantized(weight):
        return weight
    wrapper: Any = weight
    return wrapper.dequantize() if is_wrapper(weight) and hasattr(wrapper, "dequantize") else None


def require_all_processes(joined: int | None = None) -> None:
    """Raise HoldError where a launcher started several processes and this one trains without the others.

    `joined` is how many the trainer says that it joins; by default those of torch's process group.
    """
    launched = os.environ.get("WORLD_SIZE", "1")
    if joined is None:
        joined = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if launched.isdecimal() and joined < int(launched):
        raise HoldError(
            f"the launcher started {launched} processes (WORLD_SIZE), and this one trains in a group of {joined}: each "
            "would train a model of its own, and all would write to one place. On a CPU accelerate and the Trainer "
            "join them only with cpu=True (use_cpu=True), and not under FSDP; start one process, join them by "
            "torch.distributed.init_process_group, or unset WORLD_SIZE where they are meant to be apart"
        )


def gathered(tensor: Tensor) -> Tensor:
    """All of a sharded parameter, as a copy; a plain one itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded parameter; a plain one itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def write_back(whole: Tensor, tensor: Tensor) -> None:
    """Put this process's part of `whole` into the sharded parameter that it was gathered from."""
    if isinstance(tensor, DTensor):
        # no rank is the source: each holds `whole` already and only cuts out its own part
        parts = distribute_tensor(whole, tensor.device_mesh, tensor.placements, src_data_rank=None)
        tensor.to_local().copy_(parts.to_local())


def anywhere(is_moved: Tensor, groups: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """Which groups of tensors have moved on any process; a process may hold no row of a small tensor."""
    meshes = {tensor.device_mesh for tensors in groups for tensor in tensors if isinstance(tensor, DTensor)}
    for mesh in sorted(meshes, key=str):
        flags = is_moved.to(mesh.device_type, torch.int32)
        for group in mesh.get_all_groups():
            dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=group)
        is_moved = flags.to(is_moved.device, torch.bool)
    return is_moved
