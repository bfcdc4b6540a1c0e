"""The entries of a plan beside the held linears: what becomes of each tensor, and a projector held by its function."""

from dataclasses import dataclass

from torch import Tensor

from textanchor.holds.filter import FilterConfig
from textanchor.spectral import Subspace

FROZEN, COVERED = "frozen", "covered"
NOT_TRAINED = "not trained"


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
