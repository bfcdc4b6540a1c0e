"""The rules as functions on a change: damping, cap and decay, on filters and on their complements."""

import math
from typing import Any

import pytest
import torch

from textanchor.holds.rules import Reference, damp_, decay_factor, num_free, share_factor
from textanchor.spectral import Subspace

WIDTH = 10


def damped(x_RD: torch.Tensor, *args: Any) -> torch.Tensor:
    x_RD = x_RD.clone()
    damp_(x_RD, *args)
    return x_RD


def filter_of(gains: list[float], complement: bool = False) -> Subspace:
    directions = torch.linalg.qr(torch.randn(WIDTH, WIDTH, dtype=torch.float64))[0][:, : len(gains)]
    return Subspace(directions, torch.tensor(gains, dtype=torch.float64), complement)


def dense_protection(subspace: Subspace) -> tuple[torch.Tensor, torch.Tensor]:
    """All directions and the protection of each."""
    full = torch.linalg.qr(torch.cat([subspace.directions_DK, torch.randn(WIDTH, WIDTH, dtype=torch.float64)], dim=1))[
        0
    ]
    count = subspace.directions_DK.shape[1]
    full = torch.cat([subspace.directions_DK, full[:, count:WIDTH]], dim=1)
    gains = torch.cat([subspace.gains_K, torch.zeros(WIDTH - count, dtype=torch.float64)])
    return full, 1 - gains if subspace.complement else gains


@pytest.mark.parametrize("complement", [False, True])
@pytest.mark.parametrize("gains", [[1.0, 1.0, 1.0], [1.0, 0.6, 0.2]])
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("needs_all", [False, True])
def test_each_direction_is_damped_by_its_protection(
    complement: bool, gains: list[float], factor: float, needs_all: bool
) -> None:
    subspace = filter_of(gains, complement)
    start, now = torch.randn(2, 6, WIDTH, dtype=torch.float64)
    reference = Reference.of(start, subspace, needs_all=needs_all)
    assert reference.is_full == (needs_all or complement)
    full, protection = dense_protection(subspace)
    expected = start + ((now - start) @ full * factor**protection) @ full.T
    actual = damped(now, reference.values, reference.is_full, subspace, factor)
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)


def energies_of(change: torch.Tensor, subspace: Subspace) -> tuple[torch.Tensor, float]:
    return (change @ subspace.directions_DK).square().sum(0), float(change.square().sum())


def capped(change: torch.Tensor, subspace: Subspace, share: float) -> torch.Tensor:
    factor = share_factor(*energies_of(change, subspace), subspace, share)
    return damped(change, None, False, subspace, factor)


@pytest.mark.parametrize("complement", [False, True])
@pytest.mark.parametrize("gains", [[1.0, 1.0, 1.0], [1.0, 0.6, 1.0, 0.2]])
def test_share_meets_its_cap_and_is_idempotent(complement: bool, gains: list[float]) -> None:
    subspace = filter_of(gains, complement)
    change = torch.randn(8, WIDTH, dtype=torch.float64)
    once = capped(change, subspace, 0.25)
    full, protection = dense_protection(subspace)
    energies = (once @ full).square().sum(0)
    free = protection == 0
    cap = 0.25**2 * float(protection.sum()) * float(energies[free].mean())
    assert float((protection * energies).sum()) == pytest.approx(cap, rel=1e-6)
    torch.testing.assert_close(capped(once, subspace, 0.25), once, atol=0, rtol=0)
    torch.testing.assert_close((once @ full)[:, free], (change @ full)[:, free], atol=1e-12, rtol=0)


def test_share_zero_is_exact_and_share_one_lets_an_isotropic_change_pass() -> None:
    subspace = filter_of([1.0, 1.0, 1.0])
    change = torch.randn(8, WIDTH, dtype=torch.float64)
    exact = damped(change, None, False, subspace, 0.0)
    torch.testing.assert_close(capped(change, subspace, 0.0), exact, atol=0, rtol=0)
    isotropic = torch.eye(WIDTH, dtype=torch.float64)
    assert share_factor(*energies_of(isotropic, subspace), subspace, 1.0) == 1.0
    assert share_factor(*energies_of(isotropic, subspace), subspace, 0.5) == pytest.approx(0.5)


def test_share_of_no_change_and_of_a_change_that_is_all_protected() -> None:
    subspace = filter_of([1.0, 1.0])
    nothing = torch.zeros(2, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(capped(nothing, subspace, 0.1), nothing)
    protected = subspace.directions_DK.T.clone()
    assert capped(protected, subspace, 0.1).norm() < 1e-7


def test_decay_does_not_depend_on_how_a_distance_is_cut_into_steps() -> None:
    assert decay_factor(0.1, 3.0) == pytest.approx(decay_factor(0.05, 3.0) ** 2) == pytest.approx(math.exp(-0.3))
    assert decay_factor(0.0, 3.0) == 1.0


def test_number_of_free_directions() -> None:
    assert num_free(filter_of([1.0, 1.0])) == WIDTH - 2
    assert num_free(filter_of([1.0, 0.5], complement=True)) == 1
    assert num_free(filter_of([0.5] * WIDTH)) == 0
