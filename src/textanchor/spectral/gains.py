"""How many directions are held, and how strongly each: gains in [0, 1].

Shape legend: K directions, largest energy first.
"""

import torch
from torch import Tensor

from textanchor.errors import HoldError

RANK_TOLERANCE = 1e-15  # times width and largest energy: below this an energy is rounding, and its direction arbitrary


def num_selected(
    energies_K: Tensor,
    *,
    num_kept: int | None = None,
    kept_fraction: float | None = None,
    kept_energy: float | None = None,
) -> int:
    """Number of leading directions by exactly one measure: a count, a share of all K, or a share of the energy.

    HoldError where more are asked for than the states span: the rest would be arbitrary directions.
    """
    total = len(energies_K)
    rank = int((energies_K > RANK_TOLERANCE * total * energies_K.max()).sum())
    if kept_energy is not None:
        shares_K = torch.cumsum(energies_K, 0) / energies_K.sum()
        return min(int((shares_K < kept_energy * (1 - 1e-14)).sum()) + 1, rank)
    if num_kept is not None:
        count, asked = num_kept, f"num_kept={num_kept}"
    elif kept_fraction is not None:
        count, asked = max(round(kept_fraction * total), 1), f"kept_fraction={kept_fraction} of {total}"
    else:
        raise ValueError("give one of num_kept, kept_fraction and kept_energy")
    if count > rank:
        raise HoldError(
            f"{asked} asks for {count} directions, but the states of the anchor span only {rank}; "
            "fit it on more texts or images, or hold fewer directions"
        )
    return count


def num_with_energy(energies_K: Tensor, energy: float) -> int:
    """Least number of leading directions that carry at least this energy together, rounding aside; all if none does."""
    enough_K = torch.cumsum(energies_K, 0) >= energy * (1 - 1e-12)
    return int(enough_K.int().argmax()) + 1 if bool(enough_K.any()) else len(energies_K)


def direction_gains(energies_K: Tensor, count: int, kind: str, parameter: float | None = None) -> Tensor:
    """Gains of all K directions: of the first `count` by `kind`, 0 for the others.

    "top": 1. "ridge": e / (e + t m), t the parameter and m the mean energy of all K (the Wiener gain with noise t m).
    "power": (e / largest e)^parameter.
    """
    selected = energies_K[:count]
    if kind == "top":
        kept = torch.ones_like(selected)
    elif kind == "ridge" and parameter is not None:
        kept = selected / (selected + parameter * energies_K.mean())
    elif kind == "power" and parameter is not None:
        kept = (selected / energies_K.max()) ** parameter
    else:
        raise ValueError(f"gains {kind!r} with parameter {parameter}")
    return torch.cat([kept, torch.zeros_like(energies_K[count:])])
