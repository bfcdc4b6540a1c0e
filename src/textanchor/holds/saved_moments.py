"""Moments as tensors in a file, and read back one at a time: those of all linears of a model together take gigabytes.

Shape legend: D width of a state, E = D + 1, S rows that stand for the sinks.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from textanchor.holds.store import load_tensors
from textanchor.spectral import Moments

TENSORS = ("mean", "second", "sinks")


def stored_tensors(moments: Moments) -> dict[str, Tensor]:
    """The tensors of `moments` as they are written: of the symmetric second moment, one half is enough."""
    rows, columns = torch.tril_indices(moments.width + 1, moments.width + 1)
    parts = moments.mean_D, moments.second_EE[rows, columns], moments.sinks_SE
    return dict(zip(TENSORS, parts, strict=True))


class SavedMoments(Mapping[str, Moments]):
    """The moments of a saved anchor, each read from its folder whenever it is asked for."""

    def __init__(self, folder: Path, values: Mapping[str, Mapping[str, Any]]) -> None:
        self.folder, self._values = folder, values
        load_tensors(folder, "anchor", [])  # a damaged file is told at once

    def __getitem__(self, name: str) -> Moments:
        values = self._values[name]
        stored = load_tensors(self.folder, "anchor", [f"{name}/{key}" for key in TENSORS])
        mean_D, half, sinks_SE = stored.values()
        rows, columns = torch.tril_indices(len(mean_D) + 1, len(mean_D) + 1)
        second_EE = half.new_zeros(len(mean_D) + 1, len(mean_D) + 1)
        second_EE[rows, columns] = half
        second_EE[columns, rows] = half
        # copies, because a tensor of a file keeps the whole file mapped
        return Moments(mean_D=mean_D.clone(), second_EE=second_EE, sinks_SE=sinks_SE.clone(), **values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
