"""The entries of a plan beside the held linears: what becomes of each tensor, and a projector held by its function.

Packed as plain values and named tensors, and unpacked again; a filter that linears share is stored once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from textanchor.config import from_dict, to_dict
from textanchor.errors import HoldError
from textanchor.holds.filter import FilterConfig
from textanchor.holds.linear import HeldLinear, laid_out
from textanchor.holds.rules import Reference
from textanchor.spectral import Subspace

FROZEN, COVERED = "frozen", "covered"
FILTER, REFERENCE, BASE, SKETCH, PROJECTOR = "filter", "reference", "base", "sketch", "projector"
SIMPLE = ("name", "is_lora", "scaling", "side", "is_text_writer", "base_hash", "base_norm", "base_rms")


@dataclass(frozen=True, kw_only=True)
class HeldTensor:
    """One tensor of a held part and what becomes of it."""

    name: str
    part: str
    rule: str
    """exact, share, decay or penalty with its parameter; frozen; covered (held through another tensor)."""
    why: str


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldProjector:
    """The function of the projector, held by a loss term."""

    name: str
    """Base name of the module whose outputs are the visual tokens."""
    subspace: Subspace
    config: FilterConfig
    base: dict[str, Tensor]
    """The module's `state_dict` before training."""


class _FilterNumbers:
    """Numbers the filters in order of first use."""

    def __init__(self) -> None:
        self.number_of: dict[int, int] = {}
        self.tensors: dict[str, Tensor] = {}

    def add(self, subspace: Subspace) -> dict[str, Any]:
        number = self.number_of.setdefault(id(subspace), len(self.number_of))
        self.tensors[f"{FILTER}/{number}/directions"] = subspace.directions_DK
        self.tensors[f"{FILTER}/{number}/gains"] = subspace.gains_K
        return {"number": number, "complement": subspace.complement}


def pack(
    tensors: Sequence[HeldTensor], linears: Sequence[HeldLinear], projector: HeldProjector | None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Values for JSON and tensors for safetensors; filters are under `filter/`, weights before training elsewhere."""
    filters, kept = _FilterNumbers(), {}
    values: dict[str, Any] = {"tensors": [to_dict(tensor) for tensor in tensors], "linears": [], "projector": None}
    for linear in linears:
        entry = {key: to_dict(getattr(linear, key)) for key in ("tensors", *SIMPLE)}
        entry |= {"config": to_dict(linear.config), "filter": filters.add(linear.subspace), "is_full": None}
        entry["across"] = None if linear.across is None else filters.add(linear.across)
        if linear.reference is not None:
            entry["is_full"] = linear.reference.is_full
            kept[f"{REFERENCE}/{linear.name}"] = linear.reference.values
        if linear.base is not None:
            kept[f"{BASE}/{linear.name}"] = linear.base
        if linear.base_sketch is not None:
            kept[f"{SKETCH}/{linear.name}"] = linear.base_sketch
        values["linears"].append(entry)
    if projector is not None:
        entry = {"name": projector.name, "filter": filters.add(projector.subspace)}
        values["projector"] = entry | {"config": to_dict(projector.config)}
        kept |= {f"{PROJECTOR}/{name}": tensor for name, tensor in projector.base.items()}
    return values, kept | filters.tensors


def unpack(values: dict[str, Any], stored: dict[str, Tensor]) -> dict[str, Any]:
    """The three entries that `pack` took, by name."""
    filters: dict[int, Subspace] = {}

    def subspace(entry: dict[str, Any]) -> Subspace:
        number = entry["number"]
        directions_DK, gains_K = (stored[f"{FILTER}/{number}/{name}"] for name in ("directions", "gains"))
        return filters.setdefault(number, Subspace(directions_DK, gains_K, entry["complement"]))

    def linear(entry: dict[str, Any]) -> HeldLinear:
        is_full, reference = entry["is_full"], None
        if is_full is not None:
            values = stored[f"{REFERENCE}/{entry['name']}"]
            reference = Reference(laid_out(values, entry["side"]) if is_full else values, is_full)
        base, base_sketch = (stored.get(f"{place}/{entry['name']}") for place in (BASE, SKETCH))
        if is_full is False and base is None and base_sketch is None:
            raise HoldError(
                f"plan.json: of {entry['name']} nothing is kept that tells how far it moves, as in plans of earlier "
                "versions; make the plan again on the weights before training, and save it"
            )
        return HeldLinear(
            **{key: entry[key] for key in SIMPLE},
            tensors=tuple(entry["tensors"]),
            subspace=subspace(entry["filter"]),
            across=None if entry["across"] is None else subspace(entry["across"]),
            config=from_dict(FilterConfig, entry["config"], source="plan.json"),
            reference=reference,
            base=base,
            base_sketch=base_sketch,
        )

    held, projector = values["projector"], None
    if held is not None:
        prefix = f"{PROJECTOR}/"
        base = {name.removeprefix(prefix): tensor for name, tensor in stored.items() if name.startswith(prefix)}
        projector = HeldProjector(
            name=held["name"],
            subspace=subspace(held["filter"]),
            config=from_dict(FilterConfig, held["config"], source="plan.json"),
            base=base,
        )
    return {
        "tensors": tuple(HeldTensor(**tensor) for tensor in values["tensors"]),
        "linears": tuple(linear(entry) for entry in values["linears"]),
        "projector": projector,
    }
