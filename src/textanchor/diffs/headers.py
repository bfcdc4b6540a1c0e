"""What a safetensors file says it holds, from its header alone, and reading a range of its bytes.

The file is read, not mapped into memory, so that what a comparison holds is what it uses. The format: eight bytes with
the header's length, the header as JSON, the tensors' bytes. Source: safetensors' format description.
"""

import json
import math
import os
import weakref
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from textanchor.errors import ModelError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "C64": torch.complex64,
    "BOOL": torch.bool,
}
"""Types of safetensors that are whole bytes; weights of 4- and 6-bit floats are refused by that name."""
AGAIN = "copy or download it again"
LENGTH_BYTES = 8
LARGEST_HEADER = 100_000_000
"""As in safetensors itself."""
READ_AHEAD_BYTES = 2**24
"""What the system is asked to fetch while a block is computed with."""


class DamagedHeaderError(ModelError):
    """A file's header is cut off, or is none of safetensors."""


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is, and what it is; `path` is None for one in memory."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    path: Path | None = None
    offset: int = 0
    """Of its first byte in the file."""
    quantised: str = ""
    """Kind of quantisation that it is decoded from; shape and type are those of the values."""

    @property
    def num_rows(self) -> int:
        """Length of the first dimension; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def row_size(self) -> int:
        """Elements of one row."""
        return math.prod(self.shape[1:])

    @property
    def num_bytes(self) -> int:
        """Bytes of all elements."""
        return self.num_rows * self.row_size * self.dtype.itemsize


@dataclass(frozen=True)
class Header:
    """The tensors of one file, and of those how many bytes the file lacks."""

    tensors: dict[str, StoredTensor]
    missing_bytes: int


def read_header(path: Path) -> Header:
    """Tensors of a safetensors file; a file that ends too early is told by `missing_bytes`.

    ModelError where the header itself is damaged, or the file is something else.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or not 0 < length <= min(LARGEST_HEADER, size - LENGTH_BYTES):
            raise DamagedHeaderError(f"{path}: not a safetensors file, or cut off within its header; {AGAIN}")
        text = file.read(length)
    try:
        entries = json.loads(text)
        tensors = {
            name: _stored(path, name, entry, LENGTH_BYTES + length)
            for name, entry in entries.items()
            if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedHeaderError(f"{path}: its safetensors header is damaged ({error}); {AGAIN}") from error
    end = max((tensor.offset + tensor.num_bytes for tensor in tensors.values()), default=size)
    return Header(tensors, max(end - size, 0))


def _stored(path: Path, name: str, entry: dict, start: int) -> StoredTensor:
    if entry["dtype"] not in DTYPES:
        raise ModelError(
            f"{path}: {name} is quantised, stored as {entry['dtype']}, which is not read; known are "
            f"{', '.join(DTYPES)}; give the model as it was before it was quantised"
        )
    first, last = entry["data_offsets"]
    tensor = StoredTensor(tuple(entry["shape"]), DTYPES[entry["dtype"]], path, start + first)
    if last - first != tensor.num_bytes:
        raise ValueError(f"{name} has {last - first} bytes for shape {tensor.shape}")
    return tensor


class OpenFiles:
    """Files that stay open while a checkpoint is read, so that the system goes on reading ahead between blocks."""

    def __init__(self) -> None:
        self._files: dict[Path, FileIO] = {}
        weakref.finalize(self, _close_all, self._files)

    def read_rows(self, stored: StoredTensor, start: int, stop: int) -> Tensor:
        """Rows of a stored tensor as (stop - start, row size), read into fresh memory."""
        assert stored.path is not None
        if stored.path not in self._files:
            self._files[stored.path] = FileIO(stored.path, "rb")
        file = self._files[stored.path]
        values = torch.empty(stop - start, stored.row_size, dtype=stored.dtype)
        buffer = values.view(-1).view(torch.uint8).numpy().data
        file.seek(stored.offset + start * stored.row_size * stored.dtype.itemsize)
        done = 0
        while done < len(buffer):
            count = file.readinto(buffer[done:])
            if not count:
                raise ModelError(f"{stored.path}: ends before its last tensor; {AGAIN}")
            done += count
        if hasattr(os, "posix_fadvise"):  # not on every system
            os.posix_fadvise(file.fileno(), file.tell(), READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
        return values


def _close_all(files: dict[Path, FileIO]) -> None:
    for file in files.values():
        file.close()
