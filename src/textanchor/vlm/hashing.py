"""Which weights a result belongs to: all hashes of tensors and of models."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from textanchor.files import sha256_of_json
from textanchor.vlm.names import base_parameters


def tensors_hash(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of names, types, shapes and values; what records and evaluations call the model's hash."""
    return _digest(((f"{name} {tensor.dtype} {tuple(tensor.shape)}", tensor) for name, tensor in tensors))


def hash_of_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """The same with names, types and shapes as JSON, as plans have it: the digests in saved plans stay."""
    return _digest(((json.dumps([name, str(t.dtype), list(t.shape)]), t) for name, t in tensors))


def _digest(entries: Iterable[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for head, tensor in entries:
        digest.update(head.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_of_model(model: nn.Module) -> str:
    """SHA-256 of the names, types, shapes and bit patterns (by torch's own fast hash) of all parameters."""
    entries = [
        (name, str(p.dtype), list(p.shape), *bit_hashes(p)) for name, p in sorted(base_parameters(model).items())
    ]
    return sha256_of_json(entries)


def bit_hashes(tensor: Tensor) -> list[int]:
    """Torch's hash of the bits of each plain tensor that this one is made of."""
    if is_wrapper(tensor):
        wrapper: Any = tensor
        return [number for name in wrapper.__tensor_flatten__()[0] for number in bit_hashes(getattr(tensor, name))]
    return [int(torch.hash_tensor(tensor.detach()).view(torch.int64))] if tensor.numel() else [0]


def is_wrapper(tensor: Tensor) -> bool:
    """Whether a tensor is a subclass around several plain ones, as torchao quantises, and no shard."""
    return hasattr(tensor, "__tensor_flatten__") and not isinstance(tensor, DTensor)
