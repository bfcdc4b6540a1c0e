"""Intervals over images: exact where that is known, right nineteen times in twenty, and refused without images."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch

from helpers.planted_states import cone, gaussian, generator_of, turned_subspace
from textanchor import geometry as geo
from textanchor.errors import DataError
from textanchor.stats import Interval

NUM_DRAWS = 200
IMAGES, TOKENS, WIDTH = 60, 4, 6
DEVIATIONS = torch.tensor([2.0, 1.6, 0.5, 0.4, 0.3, 0.3], dtype=torch.float64)
VISUAL_MEAN, TEXT_MEAN = torch.full((WIDTH,), 0.8).double(), torch.full((WIDTH,), -0.3).double()
ANGLES = torch.tensor([0.5, 0.9], dtype=torch.float64)
AXES = torch.eye(WIDTH, dtype=torch.float64)
TEXT_AXES = torch.linalg.qr(torch.cat([turned_subspace(AXES[:, :2], AXES[:, 2:4], ANGLES), AXES[:, 2:]], 1)).Q


def ids(num_images: int, num_tokens: int) -> torch.Tensor:
    return torch.arange(num_images).repeat_interleave(num_tokens)


def tokens(generator: torch.Generator, num_images: int = IMAGES, num_tokens: int = TOKENS) -> torch.Tensor:
    """Standard Gaussian tokens, half of whose variance is their image's: tokens of one image are alike."""
    of_image = torch.randn(num_images, 1, WIDTH, generator=generator, dtype=torch.float64)
    own = torch.randn(num_images, num_tokens, WIDTH, generator=generator, dtype=torch.float64)
    return ((of_image + own) / math.sqrt(2)).reshape(-1, WIDTH)


def visual(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return tokens(generator, *shape) * DEVIATIONS + VISUAL_MEAN


def text(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return tokens(generator, *shape) * DEVIATIONS @ TEXT_AXES.T + TEXT_MEAN


def one_sample(generator: torch.Generator, group_N: torch.Tensor) -> dict[str, Interval]:
    groups = geo.state_folds(visual(generator), group_N, unit_norm=True)
    return geo.jackknife_each(
        groups,
        lambda seen: {
            "mean cosine": geo.mean_cosine(seen),
            "subspace energy": geo.subspace_energy(seen.moments, TEXT_AXES[:, :2]),
        },
    )


def two_samples(generator: torch.Generator, group_N: torch.Tensor) -> dict[str, Interval]:
    def measures(seen: geo.StateMoments, read: geo.StateMoments) -> dict[str, float]:
        bases = [geo.principal_directions(sample.moments, 2) for sample in (seen, read)]
        angles = geo.principal_angles(*bases)
        return {
            "smaller principal angle": float(angles[0]),
            "larger principal angle": float(angles[1]),
            "subspace overlap": float(angles.cos().square().mean()),  # of the angles at hand, which saves half the time
            "raw gap": geo.modality_gap(seen, read, normalised=False),
            "normalised gap": geo.modality_gap(seen, read, normalised=True),
        }

    groups = geo.state_folds(visual(generator), group_N), geo.state_folds(text(generator), group_N)
    return geo.jackknife_each(groups, measures)


def pairs(generator: torch.Generator, group_N: torch.Tensor, share: float) -> dict[str, Interval]:
    """Of tables whose rows share a part of their source."""
    source = tokens(generator)
    other = share * source + math.sqrt(1 - share**2) * tokens(generator)
    groups = geo.pair_folds(source * DEVIATIONS, other * DEVIATIONS @ TEXT_AXES.T, group_N)
    return {"debiased CKA": geo.jackknife(groups, geo.linear_cka_debiased)}


def large_samples() -> tuple[torch.Tensor, torch.Tensor]:
    generator = generator_of(99)
    return visual(generator, 400_000, 1), text(generator, 400_000, 1)


def one_sample_truths() -> dict[str, float]:
    states = large_samples()[0]
    return {
        "mean cosine": geo.mean_cosine(states),
        "subspace energy": geo.subspace_energy(states, TEXT_AXES[:, :2]),
    }


def two_sample_truths() -> dict[str, float]:
    return {
        "smaller principal angle": float(ANGLES[0]),
        "larger principal angle": float(ANGLES[1]),
        "subspace overlap": float(ANGLES.cos().square().mean()),
        "raw gap": float(torch.linalg.vector_norm(VISUAL_MEAN - TEXT_MEAN)),
        "normalised gap": geo.modality_gap(*large_samples(), normalised=True),
    }


def pair_truths(share: float) -> dict[str, float]:
    return {"debiased CKA": share**2}  # the cross-covariance is `share` times the covariance, up to a rotation


def coverage(
    intervals: Callable[..., dict[str, Interval]],
    truths: dict[str, float],
    group_N: torch.Tensor,
    num_draws: int = NUM_DRAWS,
) -> dict[str, float]:
    """Measure -> share of the drawn samples whose interval holds the truth."""
    generator = generator_of(0)
    drawn = [intervals(generator, group_N) for _ in range(num_draws)]
    return {
        name: float(np.mean([d[name].low <= truth <= d[name].high for d in drawn])) for name, truth in truths.items()
    }


@pytest.mark.parametrize(
    ("intervals", "truths"),
    [
        (one_sample, one_sample_truths),
        (two_samples, two_sample_truths),
        (partial(pairs, share=0.7), partial(pair_truths, 0.7)),
        (partial(pairs, share=0.0), partial(pair_truths, 0.0)),
    ],
    ids=["one sample", "two samples", "pairs", "unrelated pairs"],
)
def test_intervals_cover_the_truth(intervals: Callable, truths: Callable[[], dict[str, float]]) -> None:
    found = coverage(intervals, truths(), ids(IMAGES, TOKENS))
    assert min(found.values()) >= 0.90, found


def test_tokens_taken_for_images_would_not_cover() -> None:
    group_N = torch.randperm(IMAGES * TOKENS)
    assert coverage(one_sample, one_sample_truths(), group_N, num_draws=60)["mean cosine"] < 0.85


def test_the_jackknife_of_a_mean_is_student_s_interval() -> None:
    values = gaussian(20, 1)
    found = geo.jackknife(geo.StateFolds.of(values, torch.arange(20)), lambda x: float(x.mean()))
    low, high = scipy.stats.t.interval(0.95, 19, loc=values.mean(), scale=scipy.stats.sem(values.numpy())[0])
    assert (found.estimate, found.low, found.high) == pytest.approx((float(values.mean()), low, high), rel=1e-10)


def test_independent_samples_give_welch_s_interval() -> None:
    first, second = gaussian(20, 1), 3 * gaussian(12, 1, 1) + 2
    groups = [geo.StateFolds.of(x, torch.arange(len(x))) for x in (first, second)]
    found = geo.jackknife(groups, lambda a, b: float(a.mean() - b.mean()))
    expected = scipy.stats.ttest_ind(first.flatten(), second.flatten(), equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-10)


def test_samples_left_out_together_give_the_paired_interval() -> None:
    first = gaussian(20, 1)
    second = first + 0.1 * gaussian(20, 1, 1)
    groups = [geo.StateFolds.of(x, torch.arange(20)) for x in (first, second)]
    found = geo.jackknife(groups, lambda a, b: float(a.mean() - b.mean()), together=True)
    expected = scipy.stats.ttest_rel(first.flatten(), second.flatten()).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-10)
    with pytest.raises(DataError, match="the same images in the same folds"):
        other = geo.StateFolds.of(second, torch.arange(20).flip(0))
        geo.jackknife([groups[0], other], lambda a, b: float(a.mean() - b.mean()), together=True)


def test_the_estimate_is_corrected_for_bias() -> None:
    values = gaussian(20, 1)
    found = geo.jackknife(geo.StateFolds.of(values, torch.arange(20)), lambda x: float(x.var(correction=0)))
    assert found.estimate == pytest.approx(float(values.var()), rel=1e-10)


def test_unequal_folds_are_weighted() -> None:
    """Busing et al. 1999, written out: 23 images in 20 folds, three of which have two."""
    values, num = gaussian(23, 1).flatten(), 23
    theta = float(values.square().mean().sqrt())
    folds = [values[fold::20] for fold in range(20)]
    pseudo, weights = [], []
    for fold in range(20):
        h = num / len(folds[fold])
        rest = torch.cat([other for i, other in enumerate(folds) if i != fold])
        pseudo.append(h * theta - (h - 1) * float(rest.square().mean().sqrt()))
        weights.append(h)
    middle = sum(p / h for p, h in zip(pseudo, weights, strict=True))
    variance = sum((p - middle) ** 2 / (h - 1) for p, h in zip(pseudo, weights, strict=True)) / 20
    found = geo.jackknife(
        geo.StateFolds.of(values[:, None], torch.arange(num)), lambda x: float(x.square().mean().sqrt())
    )
    half = scipy.stats.t.ppf(0.975, 19) * math.sqrt(variance)
    assert (found.estimate, found.low, found.high) == pytest.approx((middle, middle - half, middle + half), rel=1e-10)


def test_sums_and_states_give_the_same_interval() -> None:
    generator = generator_of(5)
    states, other, group_N = visual(generator), text(generator), ids(IMAGES, TOKENS)
    from_sums = geo.jackknife(geo.state_folds(states, group_N), geo.mean_cosine)
    from_states = geo.jackknife(geo.StateFolds.of(states, group_N), geo.mean_cosine)
    assert (from_sums.low, from_sums.high) == pytest.approx((from_states.low, from_states.high), rel=1e-9)
    from_sums = geo.jackknife(geo.pair_folds(states, other, group_N), geo.linear_cka_debiased)
    both = geo.StateFolds.of(states, group_N), geo.StateFolds.of(other, group_N)
    from_states = geo.jackknife(both, geo.linear_cka_debiased, together=True)
    assert (from_sums.low, from_sums.high) == pytest.approx((from_states.low, from_states.high), rel=1e-8)


def test_batches_of_a_stream_do_not_matter() -> None:
    states, group_N = visual(generator_of(5)), ids(IMAGES, TOKENS)
    stream = geo.FoldedStream(geo.StateMoments.of)
    for group, batch in zip(group_N.split(7), states.split(7), strict=True):  # an image may be split over two
        stream.add(group, batch)
    streamed, at_once = stream.folds(), geo.state_folds(states, group_N)
    assert streamed.fold_of == at_once.fold_of
    for left, right in zip(streamed.leave_one_out(), at_once.leave_one_out(), strict=True):
        torch.testing.assert_close(left.moments.second_EE, right.moments.second_EE)
        assert left.mean_norm == pytest.approx(right.mean_norm)


def test_what_is_left_out_is_one_fold_of_whole_images() -> None:
    states, group_N = cone(100), torch.arange(25).repeat(4)
    folds = geo.state_folds(states, group_N)
    for fold, rest in enumerate(folds.leave_one_out()):
        kept = states[torch.tensor([folds.fold_of[int(image)] != fold for image in group_N])]
        torch.testing.assert_close(rest.moments.mean_D, kept.mean(0))
        assert rest.count == len(kept)
    assert folds.whole().count == 100


def test_too_few_folds_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least 5 folds"):
        geo.state_folds(cone(), torch.arange(60), num_folds=2)


def test_several_measures_share_their_work() -> None:
    groups, calls = geo.state_folds(cone(100), torch.arange(100)), []

    def ranks(sample: geo.StateMoments) -> dict[str, float]:
        calls.append(1)
        spectrum = geo.spectrum(sample.moments)
        return {"effective": geo.effective_rank(spectrum), "participation": geo.participation_ratio(spectrum)}

    found = geo.jackknife_each(groups, ranks)
    assert len(calls) == 21
    alone = geo.jackknife(groups, lambda sample: geo.effective_rank(sample.moments))
    assert found["effective"] == alone
    assert found["participation"].low < geo.participation_ratio(cone(100)) < found["participation"].high


def test_a_spread_is_over_images_drawn_without_replacement() -> None:
    states, group_N = cone(60), torch.arange(20).repeat(3)
    drawn: list[torch.Tensor] = []

    def measure(x: torch.Tensor, group: torch.Tensor) -> float:
        drawn.append(group[:, 0])
        return float(x[:, 0].mean())

    spread = geo.subsample_spread((states, group_N[:, None].double()), measure, group_N, num_draws=4, fraction=0.5)
    *subsamples, whole = drawn
    assert len(subsamples) == 4 and len(whole) == 60
    for groups in subsamples:
        assert groups.unique(return_counts=True)[1].tolist() == [3] * 10
    assert spread.low < spread.high and spread.estimate == pytest.approx(float(states[:, 0].mean()))
    again = geo.subsample_spread(states, lambda x: float(x[:, 0].mean()), group_N, num_draws=4, fraction=0.5)
    assert again == spread


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: geo.state_folds(cone(60), torch.arange(4).repeat(15)), "at least 5 images or documents, found 4"),
        (lambda: geo.state_folds(cone(60), torch.arange(59)), "one integer id of an image or document for each of 60"),
        (lambda: geo.StateFolds.of(cone(60), torch.zeros(60)), "one integer id"),
        (lambda: geo.pair_folds(cone(60), cone(50), torch.arange(60)), "60 rows and the second 50"),
        (lambda: geo.state_folds(torch.full((9, 2), math.nan), torch.arange(9)), "not finite"),
        (
            lambda: geo.jackknife(geo.StateFolds.of(cone(), torch.arange(60)), lambda x: math.nan),
            "nan on the whole sample",
        ),
        (
            lambda: geo.jackknife(
                geo.StateFolds.of(cone(), torch.arange(60)), lambda x: 1.0 if len(x) == 60 else math.inf
            ),
            "without fold 0",
        ),
        (lambda: geo.subsample_spread(cone(), geo.mean_cosine, torch.arange(50)), "one group id per state"),
        (lambda: geo.subsample_spread(cone(), geo.mean_cosine, torch.arange(60), fraction=1.0), "tell nothing"),
        (lambda: geo.subsample_spread(cone(), geo.mean_cosine, torch.arange(60), num_draws=1), "tell nothing"),
        (lambda: geo.subsample_spread(cone(), lambda x: math.nan, torch.arange(60)), "subsample 0"),
    ],
)
def test_intervals_that_would_say_nothing_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        call()
