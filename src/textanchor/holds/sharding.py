"""Parameters that FSDP2 shards: gathered for a rule, and each process writes its own part back.

Every process then works out the same rule on the same numbers, so any rule and any (uneven) sharding gives what one
process gives. All of it is collective: every process must come here for the same tensors in the same order.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def gathered(tensor: Tensor) -> Tensor:
    """All of a sharded parameter, as a copy; a plain one itself."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


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
