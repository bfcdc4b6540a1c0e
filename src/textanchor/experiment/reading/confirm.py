"""The confirmatory reading of a comparison: one candidate arm against every control, task by seed in blocks.

A block's value is what the arm's chosen configuration forgets in that task and seed, in nats, averaged over the levels
of learning that all tested arms reach. A candidate beats all controls only if it beats each of them (intersection-union
test: no correction is needed, the largest p-value counts).

Shape legend: S seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from textanchor.errors import DataError
from textanchor.experiment.reading.matched import LEVELS, Reference, by_arm, chosen_at, items_at, reference_of
from textanchor.experiment.reading.runs import Curve
from textanchor.stats import Interval, sign_flip_p, stratified_interval

SMALLEST_EFFECT = 0.05
"""Nats of a retained item's gold answer below which a difference does not matter."""
ALPHA = 0.05


@dataclass(frozen=True)
class Blocks:
    """Forgetting of each arm in the seeds of one task."""

    task: str
    levels: tuple[float, ...]
    """Of learning, that all arms reach; the mean is over them."""
    seeds: tuple[int, ...]
    values: Mapping[str, np.ndarray]
    """Arm -> (S,) nats."""


@dataclass(frozen=True)
class Contrast:
    """How much less the candidate forgets than one control."""

    control: str
    difference: Interval
    """Control minus candidate, in nats, with the interval of the equivalence test (90 %)."""
    p: float
    """One-sided, of the candidate forgetting less."""
    verdict: str


def blocks_of(curves: Sequence[Curve], arms: Sequence[str]) -> Blocks:
    """The blocks of one task; DataError where an arm is missing, seeds differ, or the arms share no level."""
    own = by_arm(curves)
    task = curves[0].task if curves else "?"
    missing = [arm for arm in arms if arm not in own]
    if missing:
        raise DataError(f"{task}: no runs of arm {missing[0]!r}; there are {', '.join(own)}")
    seeds = {curve.seeds for arm in arms for curve in own[arm]}
    if len(seeds) > 1:
        raise DataError(f"{task}: the arms were run with different seeds ({', '.join(map(str, sorted(seeds)))})")
    reference = reference_of(curves)
    if reference is None:
        raise DataError(f"{task}: nothing was learned, so there is no learning to compare at")
    found = {arm: _by_level(own[arm], reference) for arm in arms}
    common = tuple(level for level in LEVELS if all(level in values for values in found.values()))
    if not common:
        raise DataError(f"{task}: no level of learning from {LEVELS[0]} to {LEVELS[-1]} is reached by all arms")
    means = {arm: np.mean([values[level] for level in common], axis=0) for arm, values in found.items()}
    return Blocks(task, common, seeds.pop(), means)


def _by_level(curves: Sequence[Curve], reference: Reference) -> dict[float, np.ndarray]:
    """(S,) forgetting of the configuration that is chosen at each level, where it reaches it."""
    found = {}
    for level in LEVELS:
        chosen = chosen_at(curves, reference, level)
        values_SI = None if chosen is None else items_at(chosen, reference, level)
        if chosen is not None and values_SI is not None:
            found[level] = values_SI @ chosen.lost("test")[1]
    return found


def contrasts(tasks: Sequence[Blocks], candidate: str, controls: Sequence[str]) -> list[Contrast]:
    """The candidate against each control over all tasks, each task a stratum."""
    return [_contrast(control, [b.values[control] - b.values[candidate] for b in tasks]) for control in controls]


def _contrast(control: str, strata: Sequence[np.ndarray]) -> Contrast:
    interval, p = stratified_interval(strata, level=1 - 2 * ALPHA), sign_flip_p(strata)
    if max(abs(interval.low), abs(interval.high)) < SMALLEST_EFFECT:
        verdict = "equivalent"
    elif p <= ALPHA:
        verdict = "better"
    elif sign_flip_p([-values_S for values_S in strata]) <= ALPHA:
        verdict = "worse"
    else:
        verdict = "undecided"
    return Contrast(control, interval, p, verdict)


def confirmation(tasks: Sequence[Blocks], candidate: str, controls: Sequence[str]) -> dict[str, Any]:
    """Everything the test says, as plain values; `beats_all` is the intersection-union test."""
    found = contrasts(tasks, candidate, controls)
    return {
        "candidate": candidate,
        "tasks": {b.task: {"levels": list(b.levels), "seeds": len(b.seeds)} for b in tasks},
        "contrasts": [asdict(contrast) for contrast in found],
        "p": max(contrast.p for contrast in found),
        "beats_all": all(contrast.verdict == "better" for contrast in found),
    }


def power(
    deviations: Sequence[float], effect: float, *, num_seeds: int, num_controls: int = 1, num_draws: int = 400
) -> float:
    """Chance that the candidate is found to beat all of `num_controls` controls, each by `effect` nats.

    `deviations`: of the paired difference between seeds, one for each task; differences are drawn as normal, and apart
    for each control, which is the worst case for the intersection of their tests.
    """
    rng = np.random.default_rng(0)
    won = 0
    for draw in range(num_draws):
        drawn = ([rng.normal(effect, sd, size=num_seeds) for sd in deviations] for _ in range(num_controls))
        won += all(sign_flip_p(strata, num_draws=2**11, seed=draw) <= ALPHA for strata in drawn)
    return won / num_draws
