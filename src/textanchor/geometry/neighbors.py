"""Measures of nearest neighbours: neighbour sets, their agreement, intrinsic dimension, hubness.

Tables are searched block by block (scikit-learn's brute force), so memory stays near that of the states.
Shape legend: N tokens or items, D width, K neighbours.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from textanchor.errors import DataError, TextanchorError
from textanchor.geometry.inputs import as_pair, as_states, unit_rows

ROWS_AT_ONCE = 512
LEAST_DISTINCT = 20  # states below which a fit of TwoNN says nothing
EQUAL_DISTANCES = 1e-9  # relative difference that is rounding


@dataclass(frozen=True)
class Neighbors:
    """The K nearest other states of every state, nearest first."""

    distances_NK: Tensor
    """Euclidean, taken from differences of the states, so that those of near copies are right too."""
    indices_NK: Tensor


def nearest_neighbors(
    states_ND: Tensor, num_neighbors: int, *, metric: Literal["euclidean", "cosine"] = "euclidean"
) -> Neighbors:
    """Nearest neighbours by Euclidean distance, "cosine" between states at length 1; O(N^2 D) time.

    The order among equal distances is arbitrary. DataError for fewer than K + 1 states, and for states of no direction
    under "cosine".
    """
    from sklearn.neighbors import NearestNeighbors

    x_ND = as_states(states_ND)
    if not 1 <= num_neighbors < len(x_ND):
        raise DataError(
            f"{num_neighbors} neighbours of each state need at least {max(num_neighbors, 1) + 1} states and a number "
            f"of at least 1, found {len(x_ND)} states"
        )
    if metric == "cosine":
        x_ND = unit_rows(x_ND)
    x_ND = x_ND - x_ND.mean(dim=0)  # distances stay, and lose fewer digits to a common mean
    search = NearestNeighbors(n_neighbors=num_neighbors, algorithm="brute").fit(x_ND.numpy())
    indices_NK = torch.from_numpy(np.asarray(search.kneighbors(return_distance=False)))
    blocks = zip(x_ND.split(ROWS_AT_ONCE), indices_NK.split(ROWS_AT_ONCE), strict=True)
    distances_NK = torch.cat([_distances(x_BD, x_ND, indices_BK) for x_BD, indices_BK in blocks])
    order_NK = distances_NK.argsort(dim=1, stable=True)
    return Neighbors(distances_NK.gather(1, order_NK), indices_NK.gather(1, order_NK))


def mutual_nearest_neighbors(first_NE: Tensor, second_NF: Tensor, num_neighbors: int) -> float:
    """Mean share of an item's K nearest neighbours by cosine that both tables agree on; chance is K / (N - 1).

    Source: mutual k-NN of Huh et al. 2024 (arXiv 2405.07987). One row per image or caption: tokens of one image are
    each other's neighbours in any table. O(N^2 (E + F)). DataError as `nearest_neighbors`, and where rows do not pair.
    """
    first_NE, second_NF = as_pair(first_NE, second_NF)
    first_NK = nearest_neighbors(first_NE, num_neighbors, metric="cosine").indices_NK
    second_NK = nearest_neighbors(second_NF, num_neighbors, metric="cosine").indices_NK
    num_shared = sum(
        int((a_BK[:, :, None] == b_BK[:, None, :]).sum())
        for a_BK, b_BK in zip(first_NK.split(ROWS_AT_ONCE), second_NK.split(ROWS_AT_ONCE), strict=True)
    )
    return num_shared / first_NK.numel()


def twonn_dimension(states_ND: Tensor, *, discard_fraction: float = 0.1) -> float:
    """Intrinsic dimension from the ratio of second to first neighbour distance; O(N^2 D).

    Source: Facco et al. 2017; scikit-dimension's maximum likelihood with the largest `discard_fraction` of the ratios
    censored. Copies of a state are counted once, since a ratio over the distance 0 is not defined (a token's embedding
    recurs with every occurrence of the token). It falls short of the truth in high dimension at any affordable N.
    DataError for fewer than 20 distinct states; TextanchorError where scikit-dimension is not installed.
    """
    try:
        from skdim.id import TwoNN
    except ImportError as error:
        raise TextanchorError("TwoNN needs scikit-dimension: pip install 'textanchor[geometry]'") from error
    x_ND = torch.unique(as_states(states_ND), dim=0)
    if not 0 <= discard_fraction < 1:
        raise DataError(f"discard_fraction is a share below 1, found {discard_fraction}")
    if len(x_ND) < LEAST_DISTINCT:
        raise DataError(
            f"TwoNN needs at least {LEAST_DISTINCT} different states, found {len(x_ND)} among {len(states_ND)}"
        )
    distances_N2 = nearest_neighbors(x_ND, 2).distances_NK
    is_between_N = distances_N2[:, 1] > (1 + EQUAL_DISTANCES) * distances_N2[:, 0]
    if int(is_between_N.sum()) <= discard_fraction * len(x_ND):
        raise DataError("both neighbours of nearly every state are equally far (a regular grid); TwoNN is not defined")
    fit = TwoNN(discard_fraction=discard_fraction, dist=True, method="mle").fit(distances_N2.numpy())
    return float(fit.dimension_)


def hubness(states_ND: Tensor, num_neighbors: int) -> float:
    """Skewness of how often a state is among the K nearest neighbours (by cosine) of others; 0 without hubs.

    Source: Radovanovic et al. 2010. O(N^2 D). DataError as `nearest_neighbors`, and where all counts are equal.
    """
    from scipy.stats import skew

    indices_NK = nearest_neighbors(states_ND, num_neighbors, metric="cosine").indices_NK
    counts_N = torch.bincount(indices_NK.flatten(), minlength=len(indices_NK)).numpy()
    if counts_N.min() == counts_N.max():
        raise DataError("every state is equally often a neighbour, so skewness is not defined")
    return float(skew(counts_N))


def _distances(x_BD: Tensor, x_ND: Tensor, indices_BK: Tensor) -> Tensor:
    columns = [torch.linalg.vector_norm(x_BD - x_ND[indices_B], dim=1) for indices_B in indices_BK.T]
    return torch.stack(columns, dim=1)
