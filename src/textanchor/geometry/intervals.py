"""Intervals whose resampled unit is the image or document, never the token."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from textanchor.errors import DataError
from textanchor.geometry.groups import Folds
from textanchor.geometry.inputs import as_states
from textanchor.stats import Interval


@dataclass(frozen=True)
class Spread:
    """A value on all states with the smallest and largest value over subsamples; no confidence level is claimed."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:.3f} (subsamples {self.low:.3f} to {self.high:.3f})"


def jackknife(
    groups: Folds[Any] | Sequence[Folds[Any]],
    measure: Callable[..., float],
    *,
    together: bool = False,
    level: float = 0.95,
) -> Interval:
    """Interval of a smooth measure of one or more samples by leaving out fold after fold of images or documents.

    `measure` is called with one argument per sample. Several samples are independent of each other, and their variances
    add up; with `together` they come from the same images, and a fold is left out of all of them at once. The estimate
    is the bias-corrected one, which is the middle of the interval; the ends are not cut to the measure's range. What is
    not smooth in the states has no sound interval: equal principal angles, directions of near-equal variance, counts
    (docs/geometry.md says how often intervals hold the truth).

    Source: weighted delete-m jackknife (Busing, Meijer and van der Leeden, Statistics and Computing 1999); quantiles of
    Student's t, with folds - 1 degrees of freedom for one sample, by Welch and Satterthwaite for several.
    DataError where a fold gives no finite value, or the samples left out together have other groups in their folds.
    """
    return jackknife_each(groups, lambda *parts: {"": measure(*parts)}, together=together, level=level)[""]


def jackknife_each(
    groups: Folds[Any] | Sequence[Folds[Any]],
    measure: Callable[..., Mapping[str, float]],
    *,
    together: bool = False,
    level: float = 0.95,
) -> dict[str, Interval]:
    """`jackknife` of several measures that share their work, such as one decomposition per fold."""
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, found {level}")
    samples = list(groups) if isinstance(groups, Sequence) else [groups]
    wholes = [sample.whole() for sample in samples]
    total = _finite_values(measure(*wholes), "the whole sample")
    names, values_M = list(total), np.array(list(total.values()))

    bias_M, variances_SM, freedoms_S = np.zeros(len(names)), [], []
    for sizes_G, replicates in _left_out(samples, wholes, together):
        left_out_GM = []
        for fold, parts in enumerate(replicates):
            found = _finite_values(measure(*parts), f"the sample without fold {fold}")
            left_out_GM.append([found[name] for name in names])
        bias, variance = _bias_and_variance(values_M, np.array(left_out_GM), sizes_G)
        bias_M += bias
        variances_SM.append(variance)
        freedoms_S.append(len(sizes_G) - 1)
    half_M = _half_widths(np.array(variances_SM), np.array(freedoms_S), level)
    middle_M = values_M - bias_M
    return {
        name: Interval(float(middle), float(middle - half), float(middle + half))
        for name, middle, half in zip(names, middle_M, half_M, strict=True)
    }


def subsample_spread(
    states: Tensor | tuple[Tensor, ...],
    measure: Callable[..., float],
    group_ids: Tensor,
    num_draws: int = 5,
    fraction: float = 0.5,
    *,
    seed: int = 0,
) -> Spread:
    """A measure of all states, and its range over draws of a share of the groups without replacement.

    `states` is one table or several with the same rows, `group_ids` the image or document of each row. The range says
    how much the value hangs on which images were drawn; it is no confidence interval, and a measure that depends on
    the number of states may lie outside of it. DataError where a draw gives no finite value.
    """
    tables = states if isinstance(states, tuple) else (states,)
    if any(group_ids.shape != (len(as_states(table)),) for table in tables):
        raise DataError(f"expected one group id per state, found ids of shape {tuple(group_ids.shape)}")
    groups = group_ids.unique()
    num_taken = round(fraction * len(groups))
    if not 0 < num_taken < len(groups) or num_draws < 2:
        raise DataError(
            f"{num_draws} draws of {fraction:g} of {len(groups)} images or documents tell nothing of the spread; "
            "use at least 2 draws of a share between 0 and 1, and more images"
        )
    generator = torch.Generator().manual_seed(seed)
    values = []
    for draw in range(num_draws):
        taken = groups[torch.randperm(len(groups), generator=generator)[:num_taken]]
        is_taken_N = torch.isin(group_ids, taken)
        value = measure(*(table[is_taken_N] for table in tables))
        values.append(_finite_values({"": value}, f"subsample {draw}")[""])
    return Spread(_finite_values({"": measure(*tables)}, "the whole sample")[""], min(values), max(values))


def _left_out(samples: list[Folds[Any]], wholes: list[Any], together: bool):
    """For each independent source of chance: number of groups per fold, and the arguments without each fold."""
    if together:
        if any(sample.fold_of != samples[0].fold_of for sample in samples):
            raise DataError(
                "samples that are left out together need the same images in the same folds; "
                "gather them with the same group ids in the same order"
            )
        yield _fold_sizes(samples[0]), zip(*(sample.leave_one_out() for sample in samples), strict=True)
        return
    for place, sample in enumerate(samples):
        others_before, others_after = wholes[:place], wholes[place + 1 :]
        yield _fold_sizes(sample), ((*others_before, part, *others_after) for part in sample.leave_one_out())


def _fold_sizes(sample: Folds[Any]) -> np.ndarray:
    return np.bincount(list(sample.fold_of.values()))


def _bias_and_variance(values_M: np.ndarray, left_out_GM: np.ndarray, sizes_G: np.ndarray):
    """Bias of the whole sample's values and variance of the corrected ones, for folds of `sizes_G` groups."""
    times_G1 = (sizes_G.sum() / sizes_G)[:, None]
    pseudo_GM = times_G1 * values_M - (times_G1 - 1) * left_out_GM
    corrected_M = (pseudo_GM / times_G1).sum(axis=0)
    variance_M = (np.square(pseudo_GM - corrected_M) / (times_G1 - 1)).mean(axis=0)
    return values_M - corrected_M, variance_M


def _half_widths(variances_SM: np.ndarray, freedoms_S: np.ndarray, level: float) -> np.ndarray:
    from scipy.special import stdtrit

    total_M = variances_SM.sum(axis=0)
    parts_M = (np.square(variances_SM) / freedoms_S[:, None]).sum(axis=0)
    exact_M = total_M == 0  # a measure that no fold changes
    freedom_M = np.square(total_M) / np.where(exact_M, 1, parts_M)
    return np.where(exact_M, 0.0, stdtrit(np.where(exact_M, 1, freedom_M), (1 + level) / 2) * np.sqrt(total_M))


def _finite_values(values: Mapping[str, float], where: str) -> dict[str, float]:
    for name, value in values.items():
        if not np.isfinite(value):
            raise DataError(f"{name or 'the measure'} is {value} on {where}; it has no interval")
    return {name: float(value) for name, value in values.items()}
