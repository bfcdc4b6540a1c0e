"""Moments from float32 products against float64 ones: within 1e-6 of their norm, whatever the states look like."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from textanchor.errors import HoldError
from textanchor.spectral import Moments, MomentsStream, input_basis, num_selected
from textanchor.spectral.gram import ROWS_AT_ONCE

WIDTH, BOUND = 64, 1e-6
NUM_TOKENS = 5 * ROWS_AT_ONCE // 2


def falling(generator: torch.Generator) -> Tensor:
    return torch.randn(NUM_TOKENS, WIDTH, generator=generator) * torch.logspace(0, -3, WIDTH)


def around_a_large_mean(generator: torch.Generator) -> Tensor:
    return falling(generator) + 1000


def nearly_equal(generator: torch.Generator) -> Tensor:
    return torch.randn(WIDTH, generator=generator) + 1e-4 * falling(generator)


def mostly_zeros(generator: torch.Generator) -> Tensor:
    return (falling(generator) - 0.3).relu() + 1e-3 * torch.eye(WIDTH)[torch.arange(NUM_TOKENS) % WIDTH]


def few_large_channels(generator: torch.Generator) -> Tensor:
    states_ND = falling(generator)
    states_ND[:, 3:5] = 300 * states_ND[:, 3:5] + 500
    return states_ND


def tokens_of_many_sizes(generator: torch.Generator) -> Tensor:
    return falling(generator) * torch.randn(NUM_TOKENS, 1, generator=generator).exp()


def half_precision(generator: torch.Generator) -> Tensor:
    return (falling(generator) + 2).bfloat16()


KINDS = (
    falling,
    around_a_large_mean,
    nearly_equal,
    mostly_zeros,
    few_large_channels,
    tokens_of_many_sizes,
    half_precision,
)


def streamed(states_ND: Tensor, is_sink_N: Tensor | None = None, **options) -> Moments:
    stream = MomentsStream(states_ND.shape[1], **options)
    for start in range(0, len(states_ND), 700):
        piece = slice(start, start + 700)
        stream.add(states_ND[piece], is_sink_N=None if is_sink_N is None else is_sink_N[piece])
    return stream.moments()


def exact_rows(states_ND: Tensor, *, unit_norm: bool) -> Tensor:
    x_ND = states_ND.double()
    y_NE = torch.cat([x_ND, torch.ones(len(x_ND), 1, dtype=torch.float64)], dim=1)
    return y_NE / x_ND.norm(dim=1, keepdim=True) if unit_norm else y_NE


def off_by(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize("unit_norm", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_second_moments_and_means(kind: Callable[[torch.Generator], Tensor], unit_norm: bool) -> None:
    states_ND = kind(torch.Generator().manual_seed(0))
    moments, y_NE = streamed(states_ND, unit_norm=unit_norm), exact_rows(states_ND, unit_norm=unit_norm)
    assert moments.count == len(states_ND) > 2 * ROWS_AT_ONCE
    assert off_by(moments.second_EE, y_NE.T @ y_NE / len(y_NE)) < BOUND
    scale = y_NE[:, :-1].square().mean(0).sum().sqrt()
    assert float((moments.mean_D - y_NE[:, :-1].mean(0)).norm() / scale) < BOUND


@pytest.mark.parametrize("kind", [falling, around_a_large_mean, tokens_of_many_sizes])
def test_massive_sinks_stay_apart_and_disturb_nothing(kind: Callable[[torch.Generator], Tensor]) -> None:
    states_ND = kind(torch.Generator().manual_seed(1))
    is_first_N = torch.arange(len(states_ND)) % 16 == 0
    is_massive_N = torch.arange(len(states_ND)) % 50 == 7
    bound = 2 * float(states_ND.norm(dim=1).max())
    states_ND[is_massive_N, 5] += 1e6
    moments = streamed(states_ND, is_first_N, sink_norm=bound)
    y_NE, is_sink_N = exact_rows(states_ND, unit_norm=True), is_first_N | is_massive_N
    assert (moments.count, moments.sink_count) == (int((~is_sink_N).sum()), int(is_sink_N.sum()))
    total = moments.count * moments.second_EE + moments.sinks_SE.T @ moments.sinks_SE
    assert off_by(total, y_NE.T @ y_NE) < BOUND
    assert off_by(moments.mean_D, y_NE[~is_sink_N, :-1].mean(0)) < BOUND
    kept = torch.linalg.svdvals(y_NE[is_sink_N])[: len(moments.sinks_SE)].square().sum()
    assert off_by(moments.sinks_SE.square().sum(), kept) < 1e-3  # the largest part of them, though reduced on the way


def test_neither_batches_nor_the_order_of_merging_matter() -> None:
    states_ND = around_a_large_mean(torch.Generator().manual_seed(2))
    whole, pieces = streamed(states_ND), [streamed(piece) for piece in states_ND.split(900)]
    first, second, third = pieces
    for other in (first.merged(second).merged(third), third.merged(first).merged(second)):
        assert other.count == whole.count
        assert off_by(other.second_EE, whole.second_EE) < BOUND
        assert off_by(other.mean_D, whole.mean_D) < BOUND


def test_moments_can_be_asked_for_on_the_way() -> None:
    states_ND = falling(torch.Generator().manual_seed(3))
    stream = MomentsStream(WIDTH)
    for piece_KD in states_ND.split(300):
        stream.add(piece_KD)
        stream.moments()
    assert off_by(stream.moments().second_EE, streamed(states_ND).second_EE) < BOUND


def test_autocast_does_not_reach_them() -> None:
    states_ND = falling(torch.Generator().manual_seed(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        moments = streamed(states_ND)
    y_NE = exact_rows(states_ND, unit_norm=True)
    assert off_by(moments.second_EE, y_NE.T @ y_NE / len(y_NE)) < BOUND


@pytest.mark.parametrize(("num_tokens", "width"), [(40, 64), (300, 400), (ROWS_AT_ONCE + 6, ROWS_AT_ONCE + 40)])
def test_fewer_tokens_than_directions_span_only_so_many(num_tokens: int, width: int) -> None:
    states_ND = torch.randn(num_tokens, width, generator=torch.Generator().manual_seed(5))
    energies_K = input_basis(streamed(states_ND), with_constant=False).energies_K
    assert num_selected(energies_K, num_kept=num_tokens) == num_tokens
    with pytest.raises(HoldError, match=f"span only {num_tokens}"):
        num_selected(energies_K, num_kept=num_tokens + 1)


@pytest.mark.parametrize("num_inside", [100, ROWS_AT_ONCE + 100])
def test_rows_may_be_gathered_within_inference_mode_and_read_outside_of_it(num_inside: int) -> None:
    states_ND = falling(torch.Generator().manual_seed(0))
    inside, outside = MomentsStream(WIDTH, source="x"), MomentsStream(WIDTH, source="x")
    with torch.inference_mode():
        inside.add(states_ND[:num_inside])
    inside.add(states_ND[num_inside:])
    outside.add(states_ND[:num_inside])
    outside.add(states_ND[num_inside:])
    assert torch.equal(inside.moments().second_EE, outside.moments().second_EE)
