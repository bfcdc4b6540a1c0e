"""Folders with one safetensors file and one JSON file, written whole or not at all, and hashes of tensors."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from textanchor.errors import HoldError
from textanchor.files import atomic_directory, read_json, sha256_of_json, write_json
from textanchor.holds.bits import bit_hashes
from textanchor.vlm.names import base_parameters


def save_folder(path: Path | str, kind: str, tensors: Mapping[str, Tensor], values: Any, *, overwrite: bool) -> None:
    """Write `<kind>.safetensors` and `<kind>.json` into the folder `path`."""
    with atomic_directory(path, overwrite=overwrite) as folder:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / f"{kind}.safetensors")
        write_json(folder / f"{kind}.json", {"kind": kind, "format": 1, "content": values})


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
    stored = read_json(file)
    if not isinstance(stored, dict) or (stored.get("kind"), stored.get("format")) != (kind, 1):
        raise HoldError(f"{file}: not written by this version of textanchor; make the {kind} again and save it")
    return stored["content"]


def load_tensors(path: Path | str, kind: str, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Read some of the tensors that `save_folder` wrote, or all; HoldError where they are damaged or missing."""
    file = Path(path) / f"{kind}.safetensors"
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in (opened.keys() if names is None else names)}
    except (SafetensorError, OSError) as error:
        raise HoldError(f"{file}: cannot be read ({error}); save the {kind} again") from error


def hash_of_tensors(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        values = tensor.detach().cpu().contiguous()
        digest.update(json.dumps([name, str(values.dtype), list(values.shape)]).encode())
        digest.update(values.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_of_model(model: nn.Module) -> str:
    """SHA-256 of the names, types, shapes and bit patterns (by torch's own fast hash) of all parameters."""
    entries = [
        (name, str(p.dtype), list(p.shape), *bit_hashes(p)) for name, p in sorted(base_parameters(model).items())
    ]
    return sha256_of_json(entries)
