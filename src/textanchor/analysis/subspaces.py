"""Which modality's leading directions explain the other: both ways, beside random and shuffled bases of equal rank.

Tokens are brought to length 1, because a decoder layer reads them through a norm, and then centred on their own mean:
a gap between the means is measured by itself and must not decide what spans what.

Shape legend: N tokens, D width, K directions.
"""

import torch
from torch import Tensor

from textanchor.analysis.states import Sample
from textanchor.analysis.tables import Numbers, as_json, top_of
from textanchor.geometry import (
    StateFolds,
    jackknife_each,
    principal_angles,
    principal_directions,
    random_directions,
    shuffled_directions,
    subspace_energy,
)

NUM_ANGLES = 32


def subspace_numbers(visual: Sample, text: Sample, *, seed: int) -> Numbers:
    """Shares of energy and principal angles of two samples in one space, with jackknife intervals over both."""
    visual_ND, text_ND = centred_units(visual.states_MD), centred_units(text.states_MD)
    width = visual_ND.shape[1]
    k = top_of(width)
    folds = [StateFolds.of(sample.states_MD, sample.group_M) for sample in (visual, text)]
    found = jackknife_each(folds, _Both(k))
    num_angles = min(NUM_ANGLES, k)
    bases = [principal_directions(x_ND, num_angles) for x_ND in (visual_ND, text_ND)]
    random_DK = random_directions(width, k, seed=seed)
    return {
        "num_directions": k,
        **{name: as_json(interval) for name, interval in found.items()},
        "chance": k / width,
        "visual_by_visual": subspace_energy(visual_ND, principal_directions(visual_ND, k)),
        "text_by_text": subspace_energy(text_ND, principal_directions(text_ND, k)),
        "visual_by_random": subspace_energy(visual_ND, random_DK),
        "text_by_random": subspace_energy(text_ND, random_DK),
        "visual_by_shuffled_text": subspace_energy(visual_ND, shuffled_directions(text_ND, k, seed=seed)),
        "text_by_shuffled_visual": subspace_energy(text_ND, shuffled_directions(visual_ND, k, seed=seed)),
        "angles": torch.rad2deg(principal_angles(*bases)).tolist(),
        "random_angles": torch.rad2deg(
            principal_angles(*(random_directions(width, num_angles, seed=seed + i) for i in (1, 2)))
        ).tolist(),
    }


def centred_units(states_ND: Tensor) -> Tensor:
    """Every state at length 1, less the mean of these, in float64."""
    unit_ND = torch.nn.functional.normalize(states_ND.double(), dim=1)
    return unit_ND - unit_ND.mean(dim=0)


class _Both:
    """Explained energy both ways; the basis of a sample that is left whole is taken once for all folds of the other."""

    def __init__(self, num_directions: int):
        self.num_directions = num_directions
        self._of_whole: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, visual_ND: Tensor, text_ND: Tensor) -> dict[str, float]:
        (visual_ND, visual_DK), (text_ND, text_DK) = self._centred(visual_ND), self._centred(text_ND)
        visual_by_text, text_by_visual = subspace_energy(visual_ND, text_DK), subspace_energy(text_ND, visual_DK)
        return {
            "visual_by_text": visual_by_text,
            "text_by_visual": text_by_visual,
            "difference": visual_by_text - text_by_visual,
        }

    def _centred(self, states_ND: Tensor) -> tuple[Tensor, Tensor]:
        kept = self._of_whole.get(id(states_ND))
        if kept is None:
            x_ND = centred_units(states_ND)
            kept = (states_ND, x_ND, principal_directions(x_ND, self.num_directions))
            if len(self._of_whole) < 2:  # the first call is on both whole samples
                self._of_whole[id(states_ND)] = kept  # holds on to the table, so that its id stays its own
        return kept[1], kept[2]
