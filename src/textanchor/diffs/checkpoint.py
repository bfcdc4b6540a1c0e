"""A checkpoint as names with shapes, whose rows are read when they are asked for.

A folder with an index or with single files, one file, the tensors of a model in memory, or a state dict. What is wrong
with the files is told as problems, so that what is left can still be looked at.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textanchor.diffs.headers import DamagedHeaderError, OpenFiles, StoredTensor, read_header
from textanchor.errors import ModelError
from textanchor.files import read_json
from textanchor.holds.bits import dense
from textanchor.vlm.loading import PICKLE_SUFFIXES

INDEX, ADAPTER_CONFIG, ADAPTER_WEIGHTS = (
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
)
WEIGHT_PICKLES = ("pytorch_model", "adapter_model", "non_lora_trainables", "mm_projector", "model")
"""Beginnings of the names under which weights are pickled; optimizer states and training arguments are no weights."""
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
    pickles: tuple[str, ...] = ()
    """Names of pickled weights beside the safetensors, which are not read."""
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


def open_files(path: Path) -> Checkpoint:
    """The checkpoint of a folder or a file; ModelError where there is none, or it is pickled.

    Of a folder that holds an adapter beside a model, the model.
    """
    if path.is_file():
        _refuse_pickle(path)
        header = read_header(path)
        return _sound(
            Checkpoint(str(path), header.tensors, _config_folder(path), _truncated(path, header.missing_bytes))
        )
    if not path.is_dir():
        raise ModelError(f"{path}: there is no such folder or file; check the path")
    pickles = tuple(sorted(p.name for p in path.iterdir() if _is_pickled_weights(p)))
    index = path / INDEX
    if index.is_file():
        return _sound(_indexed(path, index, pickles))
    files = sorted(p for p in path.glob("*.safetensors") if p.name != ADAPTER_WEIGHTS)
    if not files:
        found = f"only pickled weights ({', '.join(pickles)}), which can run code when read" if pickles else "none"
        raise ModelError(
            f"{path}: expected weights as *.safetensors, found {found}; where you trust them, load them with "
            "from_pretrained and write them with save_pretrained"
        )
    return _sound(_merged(str(path), path, files, pickles))


def open_adapter_weights(folder: Path) -> Checkpoint:
    """Tensors of a PEFT adapter folder; ModelError where they are pickled, missing or damaged."""
    file = folder / ADAPTER_WEIGHTS
    pickles = tuple(sorted(p.name for p in folder.iterdir() if _is_pickled_weights(p)))
    if not file.is_file():
        found = f"only {', '.join(pickles)}, pickled, which can run code when read" if pickles else "none"
        raise ModelError(
            f"{folder}: expected the adapter's weights as {ADAPTER_WEIGHTS}, found {found}; where you trust it, load "
            "it with PeftModel.from_pretrained and write it with save_pretrained"
        )
    header = read_header(file)
    return _sound(Checkpoint(str(folder), header.tensors, folder, _truncated(file, header.missing_bytes), pickles))


def is_adapter_folder(path: Path) -> bool:
    """Whether a folder holds a PEFT adapter and no model of its own."""
    has_model = (path / INDEX).is_file() or any(p.name != ADAPTER_WEIGHTS for p in path.glob("*.safetensors"))
    return (path / ADAPTER_CONFIG).is_file() and not has_model


def _is_pickled_weights(path: Path) -> bool:
    return path.suffix in PICKLE_SUFFIXES and path.name.startswith(WEIGHT_PICKLES)


def _refuse_pickle(path: Path) -> None:
    if path.suffix in PICKLE_SUFFIXES:
        raise ModelError(
            f"{path}: pickled weights can run code when read, so they are refused; where you trust them, load them "
            "with from_pretrained (or torch.load with weights_only=True) and write them with safetensors"
        )


def _config_folder(file: Path) -> Path | None:
    return file.parent if (file.parent / "config.json").is_file() else None


def _truncated(path: Path, missing_bytes: int) -> tuple[Problem, ...]:
    size = path.stat().st_size
    what = f"is cut off: {size:,} of {size + missing_bytes:,} bytes"
    return (Problem(path.name, what),) if missing_bytes else ()


def _merged(label: str, folder: Path, files: Iterable[Path], pickles: tuple[str, ...]) -> Checkpoint:
    tensors: dict[str, StoredTensor] = {}
    problems: list[Problem] = []
    for file in files:
        try:
            header = read_header(file)
        except DamagedHeaderError:
            problems.append(Problem(file.name, "is no safetensors file, or cut off within its header"))
            continue
        tensors |= header.tensors
        problems += _truncated(file, header.missing_bytes)
    config = folder if (folder / "config.json").is_file() else None
    return Checkpoint(label, tensors, config, tuple(problems), pickles)


def _indexed(folder: Path, index: Path, pickles: tuple[str, ...]) -> Checkpoint:
    weight_map: Any = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ModelError(f"{index}: expected a weight_map from tensors to files; save the checkpoint again")
    outside = next((file for file in weight_map.values() if Path(file).name != file), None)
    if outside is not None:
        raise ModelError(
            f"{index}: names {outside!r}, which is not a file of its own folder; save the checkpoint again"
        )
    files = sorted(set(weight_map.values()))
    found = _merged(str(folder), folder, [folder / f for f in files if (folder / f).is_file()], pickles)
    damaged = {problem.file for problem in found.problems}
    problems = list(found.problems)
    for file in files:
        named = [name for name, where in weight_map.items() if where == file]
        absent = [name for name in named if name not in found.tensors]
        if not (folder / file).is_file():
            problems.append(Problem(file, f"is missing, which the index names (tensors in it: {len(named)})"))
        elif absent and file not in damaged:
            problems.append(Problem(file, f"lacks tensors that the index names in it: {len(absent)}, as {absent[0]}"))
    return Checkpoint(found.label, found.tensors, found.folder, tuple(problems), pickles)


def _sound(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without the tensors that its files do not hold to their end."""
    sizes = {path: path.stat().st_size for path in {t.path for t in checkpoint.tensors.values()} if path is not None}
    whole = {
        name: tensor
        for name, tensor in checkpoint.tensors.items()
        if tensor.path is None or tensor.offset + tensor.num_bytes <= sizes[tensor.path]
    }
    return Checkpoint(checkpoint.label, whole, checkpoint.folder, checkpoint.problems, checkpoint.pickles)


def is_float(dtype: torch.dtype) -> bool:
    """Whether numbers of that type can be subtracted after conversion; 8-bit floats carry scales of their own."""
    return dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
