"""States by place: moments of all tokens, a bounded sample of each group, sinks apart."""

import numpy as np
import pytest
import torch

from textanchor.analysis.states import PlaceStream, Streams, five_depths


def groups(num: int, *, tokens: int = 12) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(tokens, 6, generator=generator) + 1 for _ in range(num)]


def streamed(tables: list[torch.Tensor], *, keep: int = 5, seed: int = 0):
    stream = PlaceStream("here", keep=keep, seed=seed)
    for group, x_ND in enumerate(tables):
        stream.add(group, x_ND)
    return stream.states()


def test_moments_are_those_of_all_tokens() -> None:
    tables = groups(30)
    all_ND = torch.cat(tables).double()
    moments = streamed(tables).moments
    np.testing.assert_allclose(moments.moments.covariance_DD, np.cov(all_ND.T.numpy(), bias=True), atol=1e-12)
    np.testing.assert_allclose(moments.mean_unit_D, (all_ND / all_ND.norm(dim=1)[:, None]).mean(0), atol=1e-7)
    assert moments.mean_norm == pytest.approx(float(all_ND.norm(dim=1).mean()), abs=1e-6)
    assert moments.count == 360


def test_the_sample_takes_equally_many_of_every_group() -> None:
    tables = groups(30)
    sample = streamed(tables).sample
    assert sample is not None
    assert torch.bincount(sample.group_M).tolist() == [5] * 30
    for state_D, group, label in zip(sample.states_MD, sample.group_M, sample.label_M, strict=True):
        assert torch.equal(state_D, tables[group][label])


def test_the_sample_hangs_on_the_seed_alone() -> None:
    first, again, other = (streamed(groups(12), seed=seed).sample for seed in (0, 0, 1))
    assert first is not None and again is not None and other is not None
    assert torch.equal(first.states_MD, again.states_MD)
    assert not torch.equal(first.states_MD, other.states_MD)


def test_massive_tokens_are_left_out_and_counted() -> None:
    tables = groups(30)
    for group in (2, 20):
        tables[group][3] *= 500
    found = streamed(tables, keep=12)
    assert found.num_sinks == 2
    assert found.moments.count == 358
    assert found.sample is not None and float(found.sample.states_MD.norm(dim=1).max()) < 20


def test_a_sample_is_bounded_whatever_the_number_of_groups() -> None:
    assert Streams(2000, sampled=frozenset(), seed=0).keep == 2
    assert Streams(100_000, sampled=frozenset(), seed=0).keep == 1
    assert streamed(groups(10), keep=0).sample is None


@pytest.mark.parametrize(("layers", "depths"), [(30, (0, 8, 15, 22, 30)), (2, (0, 1, 2)), (32, (0, 8, 16, 24, 32))])
def test_five_depths_from_entry_to_end(layers: int, depths: tuple[int, ...]) -> None:
    assert five_depths(layers) == depths
