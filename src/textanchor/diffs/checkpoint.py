"""A checkpoint as names with shapes, whose rows are read when they are asked for.

Files, the tensors of a model in memory, or a state dict. What is wrong with files is told as problems, so that what is
left can still be looked at.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textanchor.diffs.headers import OpenFiles, StoredTensor
from textanchor.diffs.strays import StrayFile
from textanchor.errors import ModelError
from textanchor.holds.tensors import dense

BLOCK_ELEMENTS = 2**21
"""Elements of the blocks of rows in which tensors are read: small enough for the processor's cache to help."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with the files, in a sentence that names the file."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file} {self.what}"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Tensors by the names that they are stored under."""

    label: str
    tensors: dict[str, StoredTensor]
    folder: Path | None = None
    """Folder with config.json, where there is one."""
    problems: tuple[Problem, ...] = ()
    not_held: tuple[Problem, ...] = ()
    """Tensors that the index names and no file holds: a stale index where the model needs none of them."""
    refusal: str = ""
    """Why `from_pretrained` reads none of the folder's files, in a clause about the folder."""
    files: tuple[str, ...] = ()
    """Names of the files that were read in the folder."""
    strays: tuple[StrayFile, ...] = ()
    """Files with weights in the folder that are not loaded."""
    memory: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    decoder: Any = field(default=None, repr=False)
    """Values and steps of quantised weights by name (a `Decoder`), where there are any."""
    _files: OpenFiles = field(default_factory=OpenFiles, repr=False)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows of one tensor as (stop - start, row size), in the type that it is stored in."""
        stored = self.tensors[name]
        if stored.quantised:
            return self.decoder[name].values.reshape(stored.num_rows, stored.row_size)[start:stop]
        if stored.path is not None:
            return self._files.read_rows(stored, start, stop)
        return self.memory[name].detach().reshape(stored.num_rows, stored.row_size)[start:stop].cpu()

    def steps(self, name: str, start: int, stop: int) -> Tensor | None:
        """How far quantisation may have moved each entry of the same rows; None for a plain tensor."""
        stored = self.tensors[name]
        if not stored.quantised:
            return None
        return self.decoder[name].steps.expand(stored.shape).reshape(stored.num_rows, stored.row_size)[start:stop]

    def whole(self, name: str) -> Tensor:
        """One tensor in its own shape."""
        stored = self.tensors[name]
        return self.rows(name, 0, stored.num_rows).reshape(stored.shape)


def block_ranges(stored: StoredTensor, *, block_elements: int = BLOCK_ELEMENTS) -> Iterable[tuple[int, int]]:
    """First and last row of each block of rows."""
    height = max(1, block_elements // max(stored.row_size, 1))
    return ((start, min(start + height, stored.num_rows)) for start in range(0, stored.num_rows, height))


def checkpoint_of_tensors(tensors: Mapping[str, Tensor], label: str = "state dict") -> Checkpoint:
    """A checkpoint in memory; ModelError where a value is no tensor."""
    wrong = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if wrong:
        raise ModelError(f"{label}: {wrong[0]!r} is a {type(tensors[wrong[0]]).__name__}, expected a tensor")
    memory = {name: _dense(label, name, tensor) for name, tensor in tensors.items()}
    stored = {name: StoredTensor(tuple(tensor.shape), tensor.dtype) for name, tensor in memory.items()}
    return Checkpoint(label, stored, memory=memory)


def _dense(label: str, name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    values = dense(tensor)
    if values is None:
        raise ModelError(
            f"{label}: {name} is quantised ({type(tensor).__name__}), and only its quantiser makes numbers of it; give "
            "the model as it was before"
        )
    return values


def is_float(dtype: torch.dtype) -> bool:
    """Whether numbers of that type can be subtracted after conversion; 8-bit floats carry scales of their own."""
    return dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
