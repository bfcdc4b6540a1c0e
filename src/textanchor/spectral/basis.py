"""Orthonormal directions of a sample of states, in the order in which they are held.

Notable:
- output side: the normalised mean is the first direction, then the eigenvectors of the centred covariance;
- input side: eigenvectors of the uncentred second moment, of the state with its constant where a bias is held too;
- directions of the sinks come before all others and are always held.

Shape legend: D width (E = D + 1 with the constant), K directions, Q directions that are set first.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from textanchor.errors import HoldError
from textanchor.spectral.moments import Moments

NO_MEAN = 1e-7
"""Length of a mean, relative to that of the states, below which it is rounding of float32 products."""
MAX_SINKS = 8
SINK_ENERGY = 0.999


@dataclass(frozen=True)
class Basis:
    """Orthonormal columns: sinks, then the mean (output side only), then the rest with the largest energy first."""

    directions_DK: Tensor
    """Signs are fixed: the entry of largest size in each column is positive."""
    energies_K: Tensor
    """E[(u . y)^2] over the tokens that are no sinks, for each column u."""
    num_sinks: int

    def energies_in(self, second_DD: Tensor) -> Tensor:
        """Energy of each column in another second moment."""
        return energies_of(self.directions_DK, second_DD)


def energies_of(directions_DK: Tensor, second_DD: Tensor) -> Tensor:
    """E[(u . y)^2] for each column u, of states y with this second moment."""
    return (directions_DK * (second_DD @ directions_DK)).sum(0).clamp_min(0)


def output_basis(moments: Moments) -> Basis:
    """All D directions of the outputs: sinks, mean, eigenvectors of the covariance without those.

    A sample with (numerically) no mean has no mean direction. HoldError where the decomposition fails.
    """
    first_DQ, rest_DD = _sink_directions(moments.sinks_SE[:, :-1], moments.count)
    num_sinks = first_DQ.shape[1]
    second_DD = moments.second_DD + rest_DD
    mean_D = moments.mean_D - first_DQ @ (first_DQ.T @ moments.mean_D)
    if mean_D.square().sum() > NO_MEAN**2 * second_DD.trace():
        mean_D = mean_D / torch.linalg.vector_norm(mean_D)
        mean_D = mean_D - first_DQ @ (first_DQ.T @ mean_D)  # again: of a mean near the sinks the first time leaves some
        first_DQ = torch.cat([first_DQ, (mean_D / torch.linalg.vector_norm(mean_D))[:, None]], dim=1)
    basis = _completed(first_DQ, num_sinks, moments.covariance_DD + rest_DD, second_DD)
    return _spanned(basis, moments)


def input_basis(moments: Moments, *, with_constant: bool) -> Basis:
    """All directions of the inputs: of [x; 1] (D + 1 rows) with the constant, of x alone (D rows) without it.

    HoldError where the decomposition fails. Source: uncentred feature covariance as in Adam-NSCL (arXiv 2103.07113);
    the constant is ours.
    """
    second, sinks = moments.second_EE, moments.sinks_SE
    if not with_constant:
        second, sinks = moments.second_DD, sinks[:, :-1]
    first, rest = _sink_directions(sinks, moments.count)
    return _spanned(_completed(first, first.shape[1], second + rest, second + rest), moments)


def metric_basis(metric_DD: Tensor) -> Basis:
    """Eigenvectors of a positive semidefinite matrix; energies are its eigenvalues."""
    return _completed(metric_DD.new_zeros(len(metric_DD), 0), 0, metric_DD, metric_DD)


def _sink_directions(sinks_SD: Tensor, count: float) -> tuple[Tensor, Tensor]:
    """(D, Q) orthonormal directions with SINK_ENERGY of the sinks' energy, at most MAX_SINKS; the (D, D) rest of it.

    The rest is relative to `count` tokens, so that nothing that was seen is lost: it joins the ordinary tokens.
    """
    if not len(sinks_SD):
        return sinks_SD.new_zeros(sinks_SD.shape[1], 0), sinks_SD.new_zeros(sinks_SD.shape[1], sinks_SD.shape[1])
    _, sizes_S, directions_SD = torch.linalg.svd(sinks_SD, full_matrices=False)
    energies_S = sizes_S.square()
    enough_S = torch.cumsum(energies_S, 0) >= SINK_ENERGY * energies_S.sum()
    num_sinks = min(int(enough_S.int().argmax()) + 1, MAX_SINKS)
    rest_SD = sizes_S[num_sinks:, None] * directions_SD[num_sinks:]
    return directions_SD[:num_sinks].T, rest_SD.T @ rest_SD / count


def _completed(first_DQ: Tensor, num_sinks: int, order_DD: Tensor, second_DD: Tensor) -> Basis:
    """`first_DQ`, then eigenvectors of `order_DD` in its orthogonal complement, with their energies in `second_DD`."""
    order_DD = (order_DD + order_DD.T) / 2
    width, num_first = first_DQ.shape
    if num_first:
        # on the span of first_DQ every eigenvalue is set below all others, so that those directions come out last; by
        # the uncentred trace, because that of a covariance is 0 where the states do not vary
        deflated_DD = order_DD - first_DQ @ (first_DQ.T @ order_DD)
        deflated_DD = deflated_DD - (deflated_DD @ first_DQ) @ first_DQ.T
        order_DD = deflated_DD - second_DD.trace() * first_DQ @ first_DQ.T
    if not torch.isfinite(order_DD).all():
        raise HoldError("the moments are not finite, so they define no directions; fit the anchor again")
    try:
        _, vectors_DD = torch.linalg.eigh(order_DD)
    except RuntimeError as error:  # torch.linalg.LinAlgError, which torch does not export
        raise HoldError(f"decomposing a {width} x {width} moment failed ({error}); fit on other states") from error
    directions_DK = torch.cat([first_DQ, vectors_DD.flip(1)[:, : width - num_first]], dim=1)
    directions_DK = with_fixed_signs(directions_DK)
    return Basis(directions_DK, energies_of(directions_DK, second_DD), num_sinks)


def _spanned(basis: Basis, moments: Moments) -> Basis:
    """The basis with no energy in directions beyond as many as there are tokens, where float32 leaves some rounding."""
    num_tokens = math.ceil(moments.count + moments.sink_count)
    energies_K = basis.energies_K.clone()
    energies_K[num_tokens:] = 0
    return replace(basis, energies_K=energies_K)


def with_fixed_signs(directions_DK: Tensor) -> Tensor:
    """The same directions with the entry of largest size in each column positive."""
    largest_1K = directions_DK.abs().argmax(0, keepdim=True)
    return directions_DK * directions_DK.gather(0, largest_1K).sign()
