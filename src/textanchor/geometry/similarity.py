"""How alike the directions of states are, and how alike two sets of states of the same items are.

Shape legend: N tokens or items, D width, E and F widths of a first and a second sample.
"""

import math
from typing import overload

import numpy as np
from torch import Tensor

from textanchor.errors import DataError
from textanchor.geometry.inputs import as_pair, as_states, unit_rows
from textanchor.geometry.moments import PairMoments, StateMoments

ROUNDING = 1e-12  # HSIC of a table with itself is never negative; below this share of the norms it is zero


def mean_cosine(sample: Tensor | StateMoments) -> float:
    """Mean cosine of all pairs of different tokens, from their mean direction; O(N D).

    Source: Ethayarajh 2019 (arXiv 1909.00512). It measures how far the mean is off the origin, not isotropy.
    DataError for fewer than two tokens, and for tokens that are all zeros.
    """
    if isinstance(sample, StateMoments):
        count, mean_D = sample.count, sample.mean_unit_D
    else:
        x_ND = unit_rows(as_states(sample, least=2))
        count, mean_D = len(x_ND), x_ND.mean(dim=0)
    if count < 2:
        raise DataError("a cosine between tokens needs at least two of them")
    return (count * float(mean_D @ mean_D) - 1) / (count - 1)


def centred_mean_cosine(states_ND: Tensor) -> float:
    """`mean_cosine` of the states less their mean; O(N D). Its expectation for an isotropic source is -1 / (N - 1)."""
    x_ND = as_states(states_ND, least=2)
    return mean_cosine(x_ND - x_ND.mean(dim=0))


@overload
def linear_cka_debiased(first: PairMoments) -> float: ...


@overload
def linear_cka_debiased(first: Tensor, second: Tensor) -> float: ...


def linear_cka_debiased(first: Tensor | PairMoments, second: Tensor | None = None) -> float:
    """Debiased linear CKA of two tables of the same N items, or of their `PairMoments`; O(N (E + F)^2).

    1 for a rotated, scaled and shifted copy, 0 in expectation for unrelated tables, and it may be negative; the biased
    one nears 1 where widths exceed N. Source: unbiased HSIC of Song et al. 2012 (eq. 5) in the CKA of Kornblith et al.
    2019. DataError for fewer than four items, and where the items of a table are all alike.
    """
    if isinstance(first, PairMoments):
        pairs = first
    elif second is None:
        raise TypeError("linear_cka_debiased takes two tables, or the PairMoments of two tables")
    else:
        pairs = PairMoments.of(*as_pair(first, second, least=4))
    if pairs.count < 4:
        raise DataError(f"debiased CKA needs at least 4 items, found {pairs.count}")
    own = _unbiased_hsic(pairs, 0, 0), _unbiased_hsic(pairs, 1, 1)
    for name, value, squares in zip(("first", "second"), own, pairs.norms_22.diagonal().tolist(), strict=True):
        if value <= ROUNDING * squares / pairs.count**2:
            raise DataError(f"the items of the {name} table are all alike (or equally unlike): nothing to compare")
    return _unbiased_hsic(pairs, 0, 1) / math.sqrt(own[0] * own[1])


def procrustes_residual(first_NE: Tensor, second_NF: Tensor) -> float:
    """What is left of the second table after the best shift, rotation and scaling of the first; 0 to 1.

    Both are centred and brought to Frobenius norm 1; the residual is 1 - (sum of singular values of first^T second)^2,
    scipy's disparity. The narrower table is padded with zero columns. O(N E F + E^3). DataError where a table has no
    variance or the decomposition fails.
    """
    from scipy.spatial import procrustes

    first_NE, second_NF = as_pair(first_NE, second_NF, least=2)
    width = max(first_NE.shape[1], second_NF.shape[1])
    try:
        _, _, disparity = procrustes(_padded(first_NE, width), _padded(second_NF, width))
    except (ValueError, np.linalg.LinAlgError) as error:
        raise DataError(f"no Procrustes fit: {error}") from error
    return float(disparity)


def _padded(x_ND: Tensor, width: int) -> np.ndarray:
    return np.pad(x_ND.numpy(), ((0, 0), (0, width - x_ND.shape[1])))


def _unbiased_hsic(pairs: PairMoments, a: int, b: int) -> float:
    """HSIC of tables a and b (0 or 1) with linear kernels whose diagonal is left out, from sums over items."""
    n, ends = pairs.count, (slice(None, pairs.first_width), slice(pairs.first_width, None))
    sum_a, sum_b = pairs.sum_Z[ends[a]], pairs.sum_Z[ends[b]]
    cross_ab = pairs.outer_ZZ[ends[a], ends[b]]
    norm_a, norm_b = pairs.outer_ZZ[ends[a], ends[a]].trace(), pairs.outer_ZZ[ends[b], ends[b]].trace()
    diagonal = pairs.norms_22[a, b]  # sum of k_ii l_ii
    trace = cross_ab.square().sum() - diagonal
    totals = (sum_a @ sum_a - norm_a) * (sum_b @ sum_b - norm_b)
    # sum over items of (row sum of K less k_ii) (row sum of L less l_ii)
    rows = (
        sum_a @ cross_ab @ sum_b
        - sum_a @ pairs.weighted_2Z[b, ends[a]]
        - sum_b @ pairs.weighted_2Z[a, ends[b]]
        + diagonal
    )
    return float(trace + totals / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)) / (n * (n - 3))
