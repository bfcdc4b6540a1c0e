"""How much of one kind of states lies in the leading directions of another, with intervals over texts and images.

Shape legend: D width of text space, K directions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from textanchor.geometry.groups import MomentFolds
from textanchor.geometry.intervals import jackknife_each
from textanchor.geometry.subspaces import subspace_overlap
from textanchor.holds import Anchor, fit_anchor
from textanchor.holds.sources import takes_images
from textanchor.spectral import Moments, output_basis
from textanchor.spectral.basis import energies_of
from textanchor.stats import Interval


@dataclass(frozen=True)
class Overlap:
    """Of one pair of states and one number of directions."""

    first: str
    second: str
    num_directions: int
    chance: float
    """K / D."""
    overlap: Interval
    """Mean squared cosine of the principal angles between the leading directions of both."""
    energy: Interval
    """Share of the energy of the second states in the leading directions of the first."""


def fit_folds(
    model: Any,
    processor: Any,
    texts: Sequence[str],
    images: Sequence[Any],
    questions: Sequence[str],
    *,
    bases: Sequence[str],
    num_folds: int,
    progress: Callable[[int], None] = lambda fold: None,
) -> list[Anchor]:
    """An anchor on each fold of texts and images (in turn), without the linears of the language model."""
    folds = []
    for fold in range(num_folds):
        own = slice(fold, None, num_folds)
        anchor = fit_anchor(
            model, processor, texts[own], images[own], linears=[], bases=bases, questions=questions[own]
        )
        folds.append(anchor)
        progress(fold)
    return folds


def merged_anchor(folds: Sequence[Anchor]) -> Anchor:
    """The anchor of all folds together."""
    moments = {name: reduce(Moments.merged, (fold.moments[name] for fold in folds)) for name in folds[0].moments}
    provenance = dict(folds[0].provenance) | {"num_folds": len(folds)}
    for key in ("num_texts", "num_tokens", "num_images"):
        provenance[key] = sum(fold.provenance[key] for fold in folds)
    return Anchor(moments, folds[0].aliases, provenance)


def overlaps(folds: Sequence[Anchor], first: str, second: str, counts: Sequence[int]) -> list[Overlap]:
    """`Overlap` of two kinds of states for each number of directions; they come from the same or from other documents.

    Two kinds that are both of texts, or both of images, are left out together, fold by fold.
    """
    together = takes_images(first) == takes_images(second)
    samples = [_folds_of(folds, name) for name in (first, second)]
    width = folds[0].moments[first].width
    counts = [count for count in counts if count < width]
    found = jackknife_each(samples, _Measures(counts), together=together)
    return [
        Overlap(first, second, k, k / width, overlap=found[f"overlap {k}"], energy=found[f"energy {k}"]) for k in counts
    ]


def _folds_of(folds: Sequence[Anchor], name: str) -> MomentFolds[Moments]:
    return MomentFolds(tuple(fold.moments[name] for fold in folds), {i: i for i in range(len(folds))})


class _Measures:
    """Both shares for every number of directions; a sample that is left whole is decomposed once."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = counts
        self._kept: dict[int, tuple[Moments, Tensor]] = {}

    def __call__(self, first: Moments, second: Moments) -> dict[str, float]:
        first_DK, second_DK = self._directions(first), self._directions(second)
        energies_K = energies_of(first_DK, second.second_DD) / second.second_DD.trace()
        shares = torch.cumsum(energies_K, 0).tolist()
        return {f"energy {k}": shares[k - 1] for k in self.counts} | {
            f"overlap {k}": subspace_overlap(first_DK[:, :k], second_DK[:, :k]) for k in self.counts
        }

    def _directions(self, moments: Moments) -> Tensor:
        if id(moments) not in self._kept:
            directions_DK = output_basis(moments).directions_DK
            if len(self._kept) >= 2:  # the first two are the whole samples, which come again
                return directions_DK
            self._kept[id(moments)] = (moments, directions_DK)
        return self._kept[id(moments)][1]
