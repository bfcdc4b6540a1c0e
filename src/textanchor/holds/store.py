"""Folders with one safetensors file and one JSON file, written whole or not at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from textanchor.errors import DataError, HoldError
from textanchor.files import atomic_directory, read_sealed_json, write_sealed_json
from textanchor.outputs import writing

FORMAT = 2


def save_folder(path: Path | str, kind: str, tensors: Mapping[str, Tensor], values: Any, *, overwrite: bool) -> None:
    """Write `<kind>.safetensors` and `<kind>.json` into the folder `path`."""
    with atomic_directory(path, overwrite=overwrite) as folder:
        packed = {name: tensor.contiguous() for name, tensor in tensors.items()}
        with writing(path, num_bytes=sum(tensor.nbytes for tensor in packed.values())):
            save_file(packed, folder / f"{kind}.safetensors")
        stored = {"kind": kind, "format": FORMAT, "tensors": _layout(folder / f"{kind}.safetensors"), "content": values}
        write_sealed_json(folder / f"{kind}.json", stored)


def load_folder(path: Path | str, kind: str) -> tuple[dict[str, Tensor], Any]:
    """Read what `save_folder` wrote; HoldError where the folder holds something else or is damaged."""
    values = load_values(path, kind)
    return load_tensors(path, kind), values


def load_values(path: Path | str, kind: str) -> Any:
    """Read the values that `save_folder` wrote; HoldError where the folder holds something else."""
    folder = Path(path)
    file = folder / f"{kind}.json"
    if not file.is_file():
        raise HoldError(f"{folder}: expected a folder with {kind}.json and {kind}.safetensors, as `save` writes it")
    try:
        stored = read_sealed_json(file, f"make the {kind} again and save it")
    except DataError as error:
        raise HoldError(str(error)) from error
    if (stored["kind"], stored["format"]) != (kind, FORMAT):
        raise HoldError(f"{file}: is of another kind or version; make the {kind} again and save it")
    tensors = folder / f"{kind}.safetensors"
    if _layout(tensors) != stored["tensors"]:
        raise HoldError(f"{tensors}: has other names, types or shapes than were saved; save the {kind} again")
    return stored["content"]


def load_tensors(path: Path | str, kind: str, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Read some of the tensors that `save_folder` wrote, or all; HoldError where they are damaged or missing."""
    file = Path(path) / f"{kind}.safetensors"
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in (opened.keys() if names is None else names)}
    except (SafetensorError, OSError) as error:
        raise HoldError(f"{file}: cannot be read ({error}); save the {kind} again") from error


def _layout(file: Path) -> dict[str, Any]:
    """Type and shape of every tensor in the file, by its header; HoldError where it is damaged."""
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in list(opened.keys())}
            return {name: [found.get_dtype(), list(found.get_shape())] for name, found in slices.items()}
    except (SafetensorError, OSError) as error:
        raise HoldError(f"{file}: cannot be read ({error}); save the {file.stem} again") from error
