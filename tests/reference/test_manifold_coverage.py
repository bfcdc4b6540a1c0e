"""Coverage of one sample by another's neighbour balls, against the definition written out point by point."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from textanchor.errors import DataError
from textanchor.geometry.manifold import manifold_coverage


def by_definition(points: np.ndarray, manifold: np.ndarray, k: int) -> float:
    own = np.sort(cdist(manifold, manifold), axis=1)[:, k]  # column 0 is the state itself
    return float(np.mean([np.any(distances <= own) for distances in cdist(points, manifold)]))


@pytest.mark.parametrize("k", [1, 3, 5])
def test_against_the_definition(k: int) -> None:
    rng = np.random.default_rng(k)
    points, manifold = rng.normal(size=(700, 4)) * 1.4, rng.normal(size=(300, 4))
    expected = by_definition(points, manifold, k)
    assert 0.1 < expected < 0.95
    assert manifold_coverage(torch.from_numpy(points), torch.from_numpy(manifold), k) == expected


def test_copies_among_the_states_do_not_shrink_their_reach() -> None:
    generator = torch.Generator().manual_seed(0)
    manifold, points = (torch.randn(60, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    once = manifold_coverage(points, manifold)
    assert 0 < once < 1
    assert manifold_coverage(points, torch.cat([manifold] * 4)) == once


def test_bad_samples_are_refused() -> None:
    x = torch.randn(10, 3, dtype=torch.float64)
    with pytest.raises(DataError, match="3 neighbours"):
        manifold_coverage(x, x[:3])
    with pytest.raises(DataError, match="one space"):
        manifold_coverage(x, x[:, :2])
    with pytest.raises(DataError, match="not finite"):
        manifold_coverage(x * float("nan"), x)
