"""Moments and bases against numpy, and properties that any of them must have."""

import math

import numpy as np
import pytest
import torch

from textanchor.errors import HoldError
from textanchor.spectral import (
    Basis,
    Moments,
    MomentsStream,
    Subspace,
    direction_gains,
    input_basis,
    metric_basis,
    num_selected,
    output_basis,
    sink_bound,
)
from textanchor.spectral.moments import MAX_SINK_ROWS


def states_of(num_tokens: int = 300, width: int = 7, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(num_tokens, width, generator=generator, dtype=torch.float64) @ mixing + 2


def moments_of(states: torch.Tensor, **options) -> Moments:
    stream = MomentsStream(states.shape[1], **options)
    stream.add(states)
    return stream.moments()


def require_close(actual: torch.Tensor, expected, tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(actual.numpy(), np.asarray(expected), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("unit_norm", [False, True])
def test_moments_are_those_of_numpy(unit_norm: bool) -> None:
    states = states_of()
    x = states.numpy()
    y = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    if unit_norm:
        y = y / np.linalg.norm(x, axis=1, keepdims=True)
    moments = moments_of(states, unit_norm=unit_norm)
    assert moments.count == len(x)
    require_close(moments.mean_D, y[:, :-1].mean(0))
    require_close(moments.second_EE, y.T @ y / len(y))
    require_close(moments.covariance_DD, np.cov(y[:, :-1].T, bias=True))


def test_splitting_merging_and_weighting_change_nothing() -> None:
    states = states_of()
    whole = moments_of(states, sink_norm=9.0)
    stream = MomentsStream(7, sink_norm=9.0)
    for piece in states.split(37):
        stream.add(piece)
    merged = moments_of(states[:100], sink_norm=9.0).merged(moments_of(states[100:], sink_norm=9.0))
    weights = torch.tensor([3.0, 1.0, 0.0])
    weighted = MomentsStream(7)
    weighted.add(states[:3], weights_N=weights)
    repeated = moments_of(states[[0, 0, 0, 1]])
    assert whole.sink_count == stream.moments().sink_count == merged.sink_count > 0
    for other in (stream.moments(), merged):
        require_close(other.mean_D, whole.mean_D)
        require_close(other.second_EE, whole.second_EE)
        require_close(other.sinks_SE.T @ other.sinks_SE, whole.sinks_SE.T @ whole.sinks_SE)
    require_close(weighted.moments().second_EE, repeated.second_EE)


def test_sinks_are_apart_and_none_of_their_energy_is_lost() -> None:
    states = states_of(200, width=40)
    is_sink = torch.arange(200) < 60  # more than the rows that are kept for them
    stream = MomentsStream(40)
    stream.add(states, is_sink_N=is_sink)
    moments = stream.moments()
    unit = torch.cat([states, torch.ones(200, 1)], dim=1) / states.norm(dim=1, keepdim=True)
    total = moments.second_EE * moments.count + moments.sinks_SE.T @ moments.sinks_SE
    assert (moments.count, moments.sink_count, len(moments.sinks_SE)) == (140, 60, MAX_SINK_ROWS)
    require_close(total, unit.T @ unit, 1e-8)
    require_close(moments.mean_D, unit[60:, :-1].mean(0))


def test_massive_tokens_are_sinks_and_ordinary_ones_are_not() -> None:
    norms = torch.cat([torch.linspace(0.8, 1.2, 400), torch.tensor([60.0])])
    assert 1.2 < sink_bound(norms) < 60
    assert sink_bound(torch.randn(1000, 50).norm(dim=1)) > 9  # 3 sd alone would call some of these massive


def test_states_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(HoldError, match="not finite"):
        moments_of(torch.tensor([[1.0, math.nan]]))
    with pytest.raises(HoldError, match="expected states of shape"):
        MomentsStream(3).add(torch.zeros(2, 4))
    with pytest.raises(HoldError, match="no token counts"):
        moments_of(torch.zeros(5, 3))
    with pytest.raises(HoldError, match="cannot be merged"):
        moments_of(states_of()).merged(moments_of(states_of(), unit_norm=False))
    broken = moments_of(states_of())
    broken.second_EE[0, 0] = math.inf
    with pytest.raises(HoldError, match="not finite"):
        input_basis(broken, with_constant=True)


def require_orthonormal(basis: Basis) -> None:
    directions = basis.directions_DK
    require_close(directions.T @ directions, np.eye(directions.shape[1]))
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    assert bool((largest > 0).all())


def test_input_basis_is_the_eigenvectors_of_the_uncentred_moment() -> None:
    moments = moments_of(states_of(), unit_norm=False)
    for with_constant, second in ((True, moments.second_EE), (False, moments.second_DD)):
        basis = input_basis(moments, with_constant=with_constant)
        values, vectors = np.linalg.eigh(second.numpy())
        require_orthonormal(basis)
        require_close(basis.energies_K, values[::-1], 1e-8)
        overlaps = np.abs(np.sum(vectors[:, ::-1] * basis.directions_DK.numpy(), axis=0))
        require_close(torch.from_numpy(overlaps), np.ones(len(values)), 1e-8)


def test_output_basis_begins_with_the_mean_and_goes_on_with_the_covariance_beside_it() -> None:
    moments = moments_of(states_of(), unit_norm=False)
    basis = output_basis(moments)
    mean = moments.mean_D / moments.mean_D.norm()
    require_orthonormal(basis)
    require_close((basis.directions_DK[:, 0] @ mean).abs(), 1.0)
    away = torch.eye(7) - torch.outer(mean, mean)
    values = np.linalg.eigvalsh((away @ moments.covariance_DD @ away).numpy())[::-1]
    require_close(basis.energies_K[1:], values[:-1], 1e-8)
    require_close(basis.energies_K.sum(), moments.second_DD.trace())


@pytest.mark.parametrize("unit_norm", [False, True])
@pytest.mark.parametrize("spread", [0.0, 1e-12, 1e-5])
@pytest.mark.parametrize("sinks", [0, 1])
def test_states_that_hardly_vary_give_no_direction_twice(spread: float, sinks: int, unit_norm: bool) -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        state_D, noise_ND = (torch.randn(n, 7, generator=generator, dtype=torch.float64) for n in (1, 60))
        stream = MomentsStream(7, unit_norm=unit_norm)
        stream.add(3 * state_D + spread * noise_ND, is_sink_N=torch.arange(60) < sinks)
        moments = stream.moments()
        basis = output_basis(moments)
        require_orthonormal(basis)
        require_orthonormal(input_basis(moments, with_constant=True))
        if sinks == 0 and spread < 1e-5:
            assert num_selected(basis.energies_K, kept_energy=0.9) == 1
            with pytest.raises(HoldError, match="span only 1"):
                num_selected(basis.energies_K, num_kept=2)


def test_a_centred_sample_has_no_mean_direction() -> None:
    states = states_of()
    basis = output_basis(moments_of(torch.cat([states, -states]), unit_norm=False))
    assert bool((basis.energies_K.diff() <= 1e-9).all())
    assert basis.directions_DK.shape == (7, 7)


def test_sinks_come_first_and_their_remainder_joins_the_rest() -> None:
    states = states_of(400, width=12)
    stream = MomentsStream(12, unit_norm=False)
    stream.add(states, is_sink_N=torch.arange(400) < 20)
    moments = stream.moments()
    basis = input_basis(moments, with_constant=True)
    require_orthonormal(basis)
    assert 1 <= basis.num_sinks <= 8
    sink = torch.cat([states[:20], torch.ones(20, 1)], dim=1)
    left = sink - (sink @ basis.directions_DK[:, : basis.num_sinks]) @ basis.directions_DK[:, : basis.num_sinks].T
    assert 0 < left.square().sum() < 0.05 * sink.square().sum()
    require_close(basis.energies_K.sum(), moments.second_EE.trace() + left.square().sum() / moments.count, 1e-8)


def test_signs_do_not_depend_on_the_decomposition() -> None:
    metric = states_of(20).T @ states_of(20)
    first, second = metric_basis(metric), metric_basis(metric + 0.0)
    assert torch.equal(first.directions_DK, second.directions_DK)
    require_orthonormal(first)


def test_number_of_directions_by_count_share_and_energy() -> None:
    energies = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    assert num_selected(energies, num_kept=3) == 3
    assert num_selected(energies, kept_fraction=0.4) == 2
    assert num_selected(energies, kept_fraction=0.01) == 1
    assert num_selected(energies, kept_energy=8 / 15) == 1
    assert num_selected(energies, kept_energy=0.6) == 2
    assert num_selected(energies, kept_energy=1.0) == 4
    with pytest.raises(HoldError, match="span only 4"):
        num_selected(energies, num_kept=5)
    with pytest.raises(HoldError, match="span only 4"):
        num_selected(energies, kept_fraction=1.0)


def test_gains_follow_their_formulas() -> None:
    energies = torch.tensor([8.0, 4.0, 3.0, 1.0], dtype=torch.float64)
    require_close(direction_gains(energies, 2, "top"), [1, 1, 0, 0])
    require_close(direction_gains(energies, 3, "ridge", 2.0), [8 / 16, 4 / 12, 3 / 11, 0])
    require_close(direction_gains(energies, 4, "power", 0.5), [1, 0.5**0.5, (3 / 8) ** 0.5, (1 / 8) ** 0.5])


@pytest.mark.parametrize("count", [2, 6])
@pytest.mark.parametrize("complement", [False, True])
def test_the_smaller_form_of_a_filter_is_the_same_filter(count: int, complement: bool) -> None:
    basis = input_basis(moments_of(states_of()), with_constant=True)
    gains = direction_gains(basis.energies_K, count, "top")
    subspace = Subspace.of(basis, gains, complement=complement)
    chosen = basis.directions_DK[:, :count]
    projector = chosen @ chosen.T
    if complement:
        projector = torch.eye(8) - projector
    x = torch.randn(5, 8, dtype=torch.float64)
    require_close(subspace.protected(x), x @ projector)
    assert subspace.directions_DK.shape[1] == min(count, 8 - count)
    assert subspace.num_protected == pytest.approx(8 - count if complement else count)
    assert subspace.is_hard


def test_a_soft_filter_keeps_its_gains_and_holds_sinks_in_full() -> None:
    basis = Basis(torch.eye(4, dtype=torch.float64), torch.tensor([1.0, 3.0, 2.0, 1.0]), num_sinks=1)
    subspace = Subspace.of(basis, torch.tensor([0.2, 0.5, 0.25, 0.0], dtype=torch.float64))
    require_close(subspace.protected(torch.ones(1, 4, dtype=torch.float64)), [[1, 0.5, 0.25, 0]])
    assert not subspace.is_hard
