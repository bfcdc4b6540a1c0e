"""The anchor: moments of the states at the ends of linears, with where they come from.

- `text_embedding`: rows of the input embedding, weighted by how often the texts use their tokens;
- `inputs/<linear>`: what enters a linear, on texts in the language model and on images in the projector;
- `slopes/<linear>`: derivatives of the activation behind an inner linear of the projector.

Linears that receive the same states share one entry.

Shape legend: N tokens, D width of a state, E = D + 1, S rows that stand for the sinks.
"""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from textanchor.errors import HoldError
from textanchor.holds.store import load_tensors, load_values, save_folder
from textanchor.spectral import Moments, MomentsStream, sink_bound
from textanchor.tables import LAYER, Table, merged_numbers

if TYPE_CHECKING:
    from textanchor.holds.linear import Side
    from textanchor.holds.plan import HoldPlan

INPUTS, SLOPES, STATES = "inputs", "slopes", "states"
TENSORS = ("mean", "second", "sinks")
HEADER = ("states", "number", "width", "tokens", "sinks")


@dataclass(frozen=True, eq=False)
class Anchor:
    """Moments by name, and their provenance; made by `fit_anchor` or `Anchor.from_states`."""

    moments: Mapping[str, Moments]
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Name -> name under which the moments of the same states are stored."""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_states(cls, states_ND: Tensor, *, unit_norm: bool = True, sinks_apart: bool = False) -> "Anchor":
        """Anchor of one sample of states (N tokens, D wide), for `plan`.

        `unit_norm` brings every token to norm 1 first; `sinks_apart` holds tokens of massive norm in any case, on their
        own. HoldError where the states are not finite or not a matrix.
        """
        if states_ND.ndim != 2:
            raise HoldError(f"Anchor.from_states: expected a matrix (tokens, width), got {tuple(states_ND.shape)}")
        norms_N = torch.linalg.vector_norm(states_ND.detach(), dim=1)
        bound = sink_bound(norms_N) if sinks_apart else float("inf")
        stream = MomentsStream(states_ND.shape[1], unit_norm=unit_norm, sink_norm=bound, source="Anchor.from_states")
        stream.add(states_ND)
        return cls({STATES: stream.moments()}, provenance={"num_tokens": len(states_ND), "unit_norm": unit_norm})

    def plan(self, linear: nn.Module, side: "Side" = "out", **options: Any) -> "HoldPlan":
        """Plan for one linear (`nn.Linear`, or PEFT's LoRA layer) by states at its inputs ("in") or outputs ("out").

        `options` are those of `FilterConfig`; mode is "inputs" for side "in" and "outputs" for "out" unless given.
        HoldError where the widths do not fit or the hold is not legal.
        """
        from textanchor.holds.plan_linear import plan_linear

        return plan_linear(self, linear, side, options)

    def source_of(self, name: str) -> str:
        """The name under which the moments for `name` are stored."""
        return self.aliases.get(name, name)

    def __contains__(self, name: str) -> bool:
        return self.source_of(name) in self.moments

    def __getitem__(self, name: str) -> Moments:
        if name not in self:
            near = difflib.get_close_matches(name, [*self.moments, *self.aliases], n=1)
            hint = f"; the nearest name is {near[0]!r}" if near else ""
            raise HoldError(
                f"the anchor has no moments of {name!r}{hint}. fit_anchor gathers those of the language model's "
                "linears from texts and those of the projector's from images: give it what reaches this linear"
            )
        return self.moments[self.source_of(name)]

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Write a folder with anchor.safetensors and anchor.json."""
        tensors, values = {}, {}
        for name, moments in self.moments.items():
            tensors |= {f"{name}/{key}": tensor for key, tensor in stored_tensors(moments).items()}
            values[name] = {key: getattr(moments, key) for key in ("count", "sink_count", "unit_norm")}
        content = {"moments": values, "aliases": dict(self.aliases), "provenance": dict(self.provenance)}
        save_folder(path, "anchor", tensors, content, overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str) -> "Anchor":
        """Open what `save` wrote; moments are read each time they are used, so the folder has to stay.

        HoldError where the folder holds no anchor, or where a file of it is damaged.
        """
        content = load_values(path, "anchor")
        moments = SavedMoments(Path(path), content["moments"])
        return cls(moments, content["aliases"], content["provenance"])

    def __str__(self) -> str:
        return _table(self)


def stored_tensors(moments: Moments) -> dict[str, Tensor]:
    """The tensors of `moments` as they are written: of the symmetric second moment, one half is enough."""
    rows, columns = torch.tril_indices(moments.width + 1, moments.width + 1)
    parts = moments.mean_D, moments.second_EE[rows, columns], moments.sinks_SE
    return dict(zip(TENSORS, parts, strict=True))


class SavedMoments(Mapping[str, Moments]):
    """The moments of a saved anchor, each read from its folder whenever it is asked for.

    Those of all linears of a model together take gigabytes.
    """

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


def _table(anchor: Anchor) -> str:
    """Provenance, then rows of states (layers as *), how many such entries, width, tokens counted, sinks kept apart."""
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for name, moments in anchor.moments.items():
        row = (str(moments.width), f"{moments.count:.0f}", f"{moments.sink_count:.0f}")
        groups.setdefault(LAYER.sub("*", name), []).append(row)
    rows = [
        (name, str(len(entries)), *(merged_numbers(list(column)) for column in zip(*entries, strict=True)))
        for name, entries in groups.items()
    ]
    origin = ", ".join(f"{key} {value}" for key, value in anchor.provenance.items() if not isinstance(value, dict))
    return f"{origin}\n{Table(HEADER, rows).aligned()}"
