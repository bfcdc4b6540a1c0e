"""How much of one sample lies within the manifold of another: unions of neighbour balls.

Shape legend: N points, M states that span the manifold, D width, K neighbours.
"""

import torch
from torch import Tensor

from textanchor.geometry.inputs import as_states, require_same_width
from textanchor.geometry.neighbors import nearest_neighbors

POINTS_AT_ONCE = 512


def manifold_coverage(points_ND: Tensor, manifold_MD: Tensor, num_neighbors: int = 3) -> float:
    """Share of the points within reach of at least one of the other states, whose reach is its K-th own neighbour.

    0 for a sample that lies elsewhere, about 1 for one of the same source and size; copies among the manifold's states
    count once, because a copy would have no reach. Source: the precision (and, with the samples exchanged, the recall)
    of Kynkaanniemi et al. 2019 (arXiv 1904.06991), K = 3. Not symmetric, and larger the more states span the manifold:
    compare samples of equal size. O(N M D). DataError where widths differ or there are fewer than K + 1 different
    states.
    """
    points_ND, manifold_MD = as_states(points_ND, "points"), as_states(manifold_MD, "manifold").unique(dim=0)
    require_same_width(points_ND.shape[1], manifold_MD.shape[1])
    reach_M = nearest_neighbors(manifold_MD, num_neighbors).distances_NK[:, -1]
    is_covered = [(torch.cdist(x_BD, manifold_MD) <= reach_M).any(dim=1) for x_BD in points_ND.split(POINTS_AT_ONCE)]
    return float(torch.cat(is_covered).double().mean())
