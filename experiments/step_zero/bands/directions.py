"""Bands by name: all directions of a space, in the order in which they are taken.

| name | order |
| --- | --- |
| text_top, hidden:15_top, visual_top, inputs_top, ... | sinks, mean, then the largest energy first |
| ..._bottom | smallest energy first, sinks last |
| ..._middle | from the middle of the order outwards |
| random:0, random:1, ... | random directions, one draw for each number |
| identity | all directions at once and equally: no band, but uniform shrinkage |

Shape legend: D width of the space, K directions.
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from textanchor.errors import ConfigError
from textanchor.geometry import random_directions
from textanchor.holds import Anchor
from textanchor.holds.anchor import INPUTS
from textanchor.holds.sources import TEXT_EMBEDDING
from textanchor.spectral import Basis, bottom_basis, input_basis, output_basis

IDENTITY = "identity"
_ENDS = re.compile(r"(?P<source>.+)_(?P<part>top|middle|bottom)")
_RANDOM = re.compile(r"(?:inputs_)?random:(?P<draw>\d+)")


@dataclass(frozen=True)
class Band:
    """Orthonormal columns (D, K) in the order in which they are taken; `uniform` takes all of them equally."""

    name: str
    directions_DK: Tensor
    uniform: bool = False


class Bands:
    """The bands that an anchor defines; each of its moments is decomposed once."""

    def __init__(self, anchor: Anchor, width: int) -> None:
        self.anchor, self.width = anchor, width
        self._bases: dict[tuple[str, bool | None], Basis] = {}
        self._random: dict[tuple[int, int], Tensor] = {}

    def outputs(self, name: str) -> Band:
        """A band of the outputs, D wide: of `text`, hidden:l, the sensitivities or `visual`, random, identity."""
        if name == IDENTITY:
            return Band(name, torch.eye(self.width, dtype=torch.float64), uniform=True)
        if random := _RANDOM.fullmatch(name):
            return Band(name, self._random_directions(self.width, int(random["draw"])))
        source, part = _split(name)
        return Band(name, _ordered(self._basis(TEXT_EMBEDDING if source == "text" else source, None), part))

    def inputs(self, name: str, linear: str, *, with_constant: bool) -> Band:
        """A band of what enters a linear, of [h; 1] with the constant: inputs_top, inputs_bottom, inputs_random:0."""
        if random := _RANDOM.fullmatch(name):
            width = self.anchor[f"{INPUTS}/{linear}"].width + with_constant
            return Band(name, self._random_directions(width, int(random["draw"])))
        source, part = _split(name)
        if source != INPUTS:
            raise ConfigError(f"band {name!r}: the inputs of a linear have the bands inputs_top, inputs_bottom, ...")
        return Band(name, _ordered(self._basis(f"{INPUTS}/{linear}", with_constant), part))

    def _basis(self, source: str, with_constant: bool | None) -> Basis:
        key = (self.anchor.source_of(source), with_constant)
        if key not in self._bases:
            moments = self.anchor[source]
            on_inputs = with_constant is not None
            basis = input_basis(moments, with_constant=with_constant) if on_inputs else output_basis(moments)
            self._bases[key] = basis
        return self._bases[key]

    def _random_directions(self, width: int, draw: int) -> Tensor:
        if (width, draw) not in self._random:
            self._random[width, draw] = random_directions(width, width, seed=draw)
        return self._random[width, draw]


def is_of_inputs(name: str) -> bool:
    """Whether a band lies at the inputs of linears."""
    return name.startswith(f"{INPUTS}_")


def is_random(name: str) -> bool:
    """Whether a band is a draw of random directions."""
    return _RANDOM.fullmatch(name) is not None


def _split(name: str) -> tuple[str, str]:
    found = _ENDS.fullmatch(name)
    if found is None:
        raise ConfigError(
            f"unknown band {name!r}; a band is <states>_top, _middle or _bottom (text_top, hidden:15_bottom), "
            f"random:<number> or {IDENTITY}"
        )
    return found["source"], found["part"]


def _ordered(basis: Basis, part: str) -> Tensor:
    if part == "top":
        return basis.directions_DK
    if part == "bottom":
        return bottom_basis(basis).directions_DK
    ranks_K = torch.arange(basis.directions_DK.shape[1], dtype=torch.float64)
    from_middle_K = (ranks_K - (len(ranks_K) - 1) / 2).abs()
    return basis.directions_DK[:, torch.argsort(from_middle_K, stable=True)]
