"""The rules as pure functions on the change X - X0 of a matrix whose rows live in the filtered space.

Every rule damps direction i of the change by c ** p_i, with p_i the direction's protection (its gain, or 1 - gain in a
complement): `exact` is c = 0, `decay` is c = exp(-lr beta), `share` is the largest c <= 1 that meets its cap.

Shape legend: R rows, D width of the filtered space, K directions of the filter.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from textanchor.spectral import Subspace
from textanchor.spectral.precision import precise
from textanchor.spectral.products import linear

CAP_TOLERANCE = 1e-6  # a part that exceeds its cap by rounding only is left as it is, so that the rule is idempotent
NUM_BISECTIONS = 60
SUMMED_AT_ONCE = 128


@dataclass(frozen=True)
class Reference:
    """What is known of X0: its coordinates (where the rule needs no more), or all of it. Rounded nowhere."""

    values: Tensor
    """(R, K) coordinates X0 V or (J, K) coordinates U^T X0 V in float64, or (R, D) in the matrix's own type."""
    is_full: bool

    @classmethod
    def of(cls, x_RD: Tensor, subspace: Subspace, *, needs_all: bool) -> "Reference":
        """Reference of a matrix; itself where the rule or the filter's complement needs all, or that is no larger."""
        if needs_all or subspace.complement or 2 * subspace.directions_DK.shape[1] >= subspace.width:
            return cls(x_RD, is_full=True)
        directions_DK = subspace.directions_DK.to(precise(x_RD.device))
        return cls(x_RD.to(directions_DK) @ directions_DK, is_full=False)

    @classmethod
    def of_pairs(cls, x_RD: Tensor, across: Subspace, subspace: Subspace, *, needs_all: bool) -> "Reference":
        """Reference of a matrix that is held between directions of its rows' index and of its columns'."""
        if needs_all:
            return cls(x_RD, is_full=True)
        u_RJ, v_DK = (side.directions_DK.to(precise(x_RD.device)) for side in (across, subspace))
        return cls(u_RJ.T @ (x_RD.to(v_DK) @ v_DK), is_full=False)


def damp_(
    x_RD: Tensor,
    reference_R: Tensor | None,
    is_full: bool,
    subspace: Subspace,
    factor: float,
    change_RK: Tensor | None = None,
) -> None:
    """Damp each direction i of the change of X in place by factor ** p_i; `reference_R` None is X0 = 0.

    `reference_R` holds the rows of X0 (`is_full`) or their coordinates. A complement needs all of X0. `change_RK` are
    the coordinates of the change, where they are known already.
    """
    directions_DK, gains_K = subspace.directions_DK.to(x_RD), subspace.gains_K.to(x_RD)
    if change_RK is None:
        change_RK = change_coordinates(x_RD, reference_R, is_full, subspace)
    if subspace.has_unit_gains and not subspace.complement:  # the usual case, in fewer passes
        x_RD.sub_(linear(change_RK, directions_DK), alpha=1 - factor)
        return
    if subspace.complement:
        base_RD = torch.zeros_like(x_RD) if reference_R is None else reference_R.to(x_RD)
        x_RD.lerp_(base_RD, 1 - factor).add_(linear(change_RK * (factor ** (1 - gains_K) - factor), directions_DK))
        return
    x_RD.sub_(linear(change_RK * (1 - factor**gains_K), directions_DK))


def change_coordinates(x_RD: Tensor, reference_R: Tensor | None, is_full: bool, subspace: Subspace) -> Tensor:
    """(X - X0) V, as (R, K), in the type of X."""
    directions_DK = subspace.directions_DK.to(x_RD)
    if reference_R is None:
        return linear(x_RD, directions_DK.T)
    if is_full:
        return linear(x_RD - reference_R.to(x_RD), directions_DK.T)
    if x_RD.dtype == reference_R.dtype:
        return linear(x_RD, directions_DK.T) - reference_R
    # X V and X0 V nearly cancel: a product rounds by its longest sum, so that short ones are added up in float64
    change_RK = -reference_R.to(precise(x_RD.device))
    for start in range(0, x_RD.shape[1], SUMMED_AT_ONCE):
        piece = slice(start, start + SUMMED_AT_ONCE)
        change_RK += linear(x_RD[:, piece], directions_DK[piece].T)
    return change_RK.to(x_RD)


def decay_factor(lr: float, beta: float) -> float:
    """c of `decay`: exp(-lr beta), so that the pull does not depend on how a distance is cut into steps."""
    return math.exp(-lr * beta)


def share_factor(energies_K: Tensor, total_energy: float, subspace: Subspace, share: float) -> float:
    """c of `share` for a filter on one side; `energies_K` are those of the change along its directions."""
    gains_K = subspace.gains_K
    if subspace.is_hard:
        along = float(gains_K.to(energies_K) @ energies_K)
        protected = max(total_energy - along, 0.0) if subspace.complement else along
        num_protected = subspace.num_protected
        num_free = subspace.width - num_protected
        return hard_cap_factor(protected, num_protected, max(total_energy - protected, 0.0), num_free, share)
    inside_K, outside = (1 - gains_K, 1.0) if subspace.complement else (gains_K, 0.0)
    return cap_factor(energies_K, inside_K, total_energy, outside, subspace.width, share)


def pair_share_factor(
    energies_JK: Tensor, total_energy: float, across: Subspace, subspace: Subspace, share: float
) -> float:
    """c of `share` for filters on both sides: of all pairs of an output and an input direction."""
    protections_JK = torch.outer(across.gains_K, subspace.gains_K)
    num_pairs = across.width * subspace.width
    return cap_factor(energies_JK.flatten(), protections_JK.flatten(), total_energy, 0.0, num_pairs, share)


def hard_cap_factor(
    protected_energy: float, num_protected: float, free_energy: float, num_free: float, share: float
) -> float:
    """`cap_factor` where every direction is protected whole or not at all, which has a closed form."""
    cap = share**2 * num_protected / num_free * free_energy
    return 1.0 if protected_energy <= cap * (1 + CAP_TOLERANCE) ** 2 else math.sqrt(cap / protected_energy)


def cap_factor(
    energies_K: Tensor, protections_K: Tensor, total_energy: float, outside: float, num_directions: int, share: float
) -> float:
    """The largest c <= 1 with protected part <= share x its isotropic part of the rest.

    K directions have energies and protections of their own; the others of all `num_directions` have the rest of
    `total_energy` and the protection `outside`. With p_i the protection and n_free, e_free the number and energy of the
    directions with p = 0, which are free: sum_i p_i c^(2 p_i) e_i <= share^2 (sum p_i / n_free) e_free. At 1 an
    isotropic change passes, 0 is `exact`.
    """
    energies_K, protections_K = energies_K.cpu(), protections_K.cpu()  # not a transfer for each step of the bisection
    outside_energy = max(total_energy - float(energies_K.sum()), 0.0)
    outside_count = num_directions - len(energies_K)
    protections = torch.cat([protections_K, protections_K.new_tensor([outside])]).to(energies_K)
    energies = torch.cat([energies_K, energies_K.new_tensor([outside_energy])])
    counts = torch.cat([torch.ones_like(energies_K), energies_K.new_tensor([outside_count])])
    is_free = protections == 0
    free = is_free.to(energies)
    cap = share**2 * float((protections @ counts) / (free @ counts) * (free @ energies))

    def protected_energy(factor: float) -> float:
        return float((protections * factor ** (2 * protections)) @ energies)

    largest = float(protections @ energies)
    if largest <= cap * (1 + CAP_TOLERANCE) ** 2:
        return 1.0
    if cap == 0:
        return 0.0
    if bool((is_free | (protections == 1)).all()):
        return math.sqrt(cap / largest)
    low, high = 0.0, 1.0
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if protected_energy(middle) <= cap else (low, middle)
    return low


def damped_pairs(change_JK: Tensor, across: Subspace, subspace: Subspace, factor: float) -> Tensor:
    """What to subtract, as coordinates (J, K), so that pair (i, j) of a change is damped by factor ** (p_i q_j)."""
    return change_JK * (1 - factor ** torch.outer(across.gains_K, subspace.gains_K))


def num_free(subspace: Subspace) -> int:
    """Number of directions that the filter does not protect at all."""
    protections_K = 1 - subspace.gains_K if subspace.complement else subspace.gains_K
    outside = 0 if subspace.complement else subspace.width - len(protections_K)
    return outside + int((protections_K == 0).sum())


def column_energies(change_RK: Tensor, gram_rr: Tensor | None) -> Tensor:
    """(K,) energy of the columns of a change of X, whose rows `gram_rr` weighs where they are the rank of LoRA."""
    return (change_RK * (change_RK if gram_rr is None else gram_rr @ change_RK)).sum(0)
