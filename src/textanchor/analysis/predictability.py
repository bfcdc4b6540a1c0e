"""How well images and captions predict each other, both ways, and how much of one modality lies within the other.

Shape legend: P pairs, D width, N tokens.
"""

from functools import partial

import torch
from torch import Tensor

from textanchor.analysis.states import Sample
from textanchor.analysis.tables import Numbers, as_json, with_whole
from textanchor.errors import DataError
from textanchor.geometry import StateFolds, jackknife_each, subsample_spread
from textanchor.geometry.manifold import manifold_coverage

NUM_SPLITS = 5
RIDGES = tuple(10.0**power for power in range(-4, 4))
"""Ridge penalties that are tried, as multiples of the mean squared length of the inputs."""
LEAST_PAIRS = 50
MAX_TOKENS = 2048
"""Tokens of each modality whose manifolds are compared."""


def prediction_numbers(visual_PD: Tensor, text_PD: Tensor, *, seed: int) -> Numbers:
    """Cross-validated R^2 of ridge regressions between paired tables, beside those of shuffled pairs.

    R^2 is 1 - sum |y - prediction|^2 / sum |y - mean|^2 over held-out pairs, the mean being that of the training pairs.
    The penalty is chosen by leave-one-out within the training pairs. Intervals: jackknife over images, the fits held
    fixed. DataError for fewer than 50 pairs.
    """
    if len(visual_PD) < LEAST_PAIRS:
        raise DataError(f"predictability needs at least {LEAST_PAIRS} images with captions, found {len(visual_PD)}")
    errors_P4 = torch.cat([_errors(visual_PD, text_PD, seed), _errors(text_PD, visual_PD, seed)], dim=1)
    found = jackknife_each(StateFolds.of(errors_P4, torch.arange(len(errors_P4))), _both)
    shuffled_P = torch.randperm(len(text_PD), generator=torch.Generator().manual_seed(seed))
    wrong_P4 = torch.cat(
        [_errors(visual_PD, text_PD[shuffled_P], seed), _errors(text_PD[shuffled_P], visual_PD, seed)], dim=1
    )
    return {
        **{name: as_json(interval) for name, interval in found.items()},
        "shuffled": {name: value for name, value in _both(wrong_P4).items() if name != "difference"},
    }


def coverage_numbers(visual: Sample, text: Sample, *, seed: int) -> Numbers:
    """Share of visual tokens within the text manifold and the reverse, of equally many unit tokens, with its spread."""
    pieces, groups = zip(*(_thinned(sample, seed) for sample in (visual, text)), strict=True)
    kind_N = torch.cat([torch.full((len(piece), 1), float(i)) for i, piece in enumerate(pieces)])
    group_N = torch.cat([groups[0], groups[1] + int(groups[0].max()) + 1])
    states_ND = torch.cat(pieces)
    spreads = {}
    for place, name in enumerate(("visual_in_text", "text_in_visual", "difference")):
        measure = partial(_covered, place)
        spreads[name] = with_whole(subsample_spread((states_ND, kind_N), measure, group_N, seed=seed))
    return spreads


def _covered(place: int, states_ND: Tensor, kind_N: Tensor) -> float:
    """Coverage of visual tokens (place 0), of text tokens (1), or their difference (2)."""
    visual_ND, text_ND = (states_ND[kind_N[:, 0] == kind] for kind in (0, 1))
    num = min(len(visual_ND), len(text_ND))
    visual_ND, text_ND = visual_ND[:num], text_ND[:num]
    if place < 2:
        return manifold_coverage(*((visual_ND, text_ND) if place == 0 else (text_ND, visual_ND)))
    return manifold_coverage(visual_ND, text_ND) - manifold_coverage(text_ND, visual_ND)


def _thinned(sample: Sample, seed: int) -> tuple[Tensor, Tensor]:
    order_M = torch.randperm(len(sample.states_MD), generator=torch.Generator().manual_seed(seed))[:MAX_TOKENS]
    return torch.nn.functional.normalize(sample.states_MD[order_M].double(), dim=1), sample.group_M[order_M]


def _errors(inputs_PD: Tensor, targets_PD: Tensor, seed: int) -> Tensor:
    """(P, 2) squared error of the held-out prediction of each pair, and of the training pairs' mean."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold

    x_PD, y_PD = inputs_PD.double().numpy(), targets_PD.double().numpy()
    scale = float(x_PD.var(axis=0).sum())
    errors_P2 = torch.zeros(len(x_PD), 2, dtype=torch.float64)
    for train, test in KFold(NUM_SPLITS, shuffle=True, random_state=seed).split(x_PD):
        fit = RidgeCV(alphas=[ridge * scale for ridge in RIDGES]).fit(x_PD[train], y_PD[train])
        residual = y_PD[test] - fit.predict(x_PD[test])
        offset = y_PD[test] - y_PD[train].mean(axis=0)
        errors_P2[test, 0] = torch.from_numpy((residual**2).sum(axis=1))
        errors_P2[test, 1] = torch.from_numpy((offset**2).sum(axis=1))
    return errors_P2


def _both(errors_P4: Tensor) -> dict[str, float]:
    error_t, total_t, error_v, total_v = errors_P4.sum(dim=0).tolist()
    text_from_visual, visual_from_text = 1 - error_t / total_t, 1 - error_v / total_v
    return {
        "text_from_visual": text_from_visual,
        "visual_from_text": visual_from_text,
        "difference": visual_from_text - text_from_visual,
    }
