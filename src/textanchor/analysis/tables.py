"""From what was gathered to the plain numbers of geometry.json: one place, two modalities at one depth, pairs.

Shape legend: N tokens, M tokens of a sample, P pairs, D width.
"""

from typing import Any

import torch
from torch import Tensor

from textanchor.analysis.gather import TEXT, VISUAL, Gathered, Pairs
from textanchor.analysis.states import PlaceStates, Sample, place_of
from textanchor.geometry import (
    Spectrum,
    Spread,
    StateMoments,
    centred_mean_cosine,
    effective_rank,
    frechet,
    isoscore_star,
    jackknife,
    jackknife_each,
    linear_cka_debiased,
    mean_cosine,
    modality_gap,
    modality_integration_rate,
    mutual_nearest_neighbors,
    norm_ratio,
    outlier_dimensions,
    pair_folds,
    participation_ratio,
    spectral_slope,
    spectrum,
    state_folds,
    subsample_spread,
    top_energy,
    twonn_dimension,
)

Numbers = dict[str, Any]

SLOPE_FROM = 10
"""First rank of the spectral slope; the last is half of the width. The first few directions follow no power law."""
MAX_SEARCHED = 2048
"""Tokens whose neighbours are searched for an intrinsic dimension; the time grows with their square."""
NEIGHBORS = 10
"""K of mutual nearest neighbours."""


def as_json(interval: Any) -> Numbers:
    """Keys estimate, low and high of an `Interval` or a `Spread`."""
    return {key: getattr(interval, key) for key in ("estimate", "low", "high")}


def with_whole(spread: Spread) -> Numbers:
    """The range over the subsamples and the whole sample, which may lie outside of what its subsamples give."""
    return as_json(spread) | {"low": min(spread.low, spread.estimate), "high": max(spread.high, spread.estimate)}


def top_of(width: int) -> int:
    """Number of directions of a subspace: a tenth of the width."""
    return max(1, width // 10)


def place_numbers(place: PlaceStates, *, intervals: bool) -> tuple[Numbers, list[float]]:
    """Measures of all tokens of one place, with intervals of its sample where asked for; and its spectrum, as shares.

    DataError where tokens are not more than dimensions.
    """
    own = spectrum(place.moments.moments)
    values = _spread_of_variance(place.moments, own)
    numbers: Numbers = {
        "num_tokens": int(place.moments.count),
        "num_sinks": place.num_sinks,
        "width": len(own.eigenvalues_D),
        "mean_norm": place.moments.mean_norm,
        "outlier_dimensions": len(outlier_dimensions(place.moments.moments)),
        "measures": values,
    }
    if intervals:
        assert place.sample is not None
        folds = state_folds(place.sample.states_MD, place.sample.group_M)
        found = jackknife_each(folds, _spread_of_variance)
        numbers["intervals"] = {name: as_json(interval) for name, interval in found.items()}
        numbers["centred_mean_cosine"] = centred_mean_cosine(place.sample.states_MD)
        numbers["gaussian"] = {
            "isotropic": gaussian_participation(place.sample, norm_matched=False),
            "norm_matched": gaussian_participation(place.sample, norm_matched=True),
        }
    return numbers, (own.eigenvalues_D / own.eigenvalues_D.sum()).tolist()


def _spread_of_variance(moments: StateMoments, own: Spectrum | None = None) -> dict[str, float]:
    own = spectrum(moments.moments) if own is None else own
    width = len(own.eigenvalues_D)
    return {
        "mean_cosine": mean_cosine(moments),
        "participation_ratio": participation_ratio(own) / width,
        "effective_rank": effective_rank(own) / width,
        "isoscore_star": isoscore_star(own),
        "top_energy": top_energy(own, top_of(width)),
        "spectral_slope": spectral_slope(own, first_rank=min(SLOPE_FROM, width // 4), last_rank=width // 2),
    }


def gaussian_participation(sample: Sample, *, norm_matched: bool, seed: int = 0) -> float:
    """Participation ratio over width of as many isotropic Gaussian tokens, brought to the sample's norms where asked.

    What of a low ratio is due to the number of tokens, and what to their norms alone.
    """
    x_MD = sample.states_MD.double()
    null_MD = torch.randn(x_MD.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if norm_matched:
        null_MD = null_MD * (x_MD.norm(dim=1) / null_MD.norm(dim=1))[:, None]
    return participation_ratio(null_MD) / x_MD.shape[1]


def between_numbers(gathered: Gathered) -> list[Numbers]:
    """Gap, norm ratio and Frechet distance of visual and text positions at every depth."""
    rows = []
    for depth in range(gathered.num_layers + 1):
        visual, text = (gathered.places[place_of(kind, depth)].moments for kind in (VISUAL, TEXT))
        scale = text.mean_norm
        rows.append(
            {
                "depth": depth,
                "gap": modality_gap(visual, text, normalised=False) / scale,
                "gap_normalised": modality_gap(visual, text, normalised=True),
                "norm_ratio": norm_ratio(visual, text),
                "frechet": frechet(visual.moments, text.moments) / scale**2,
            }
        )
    return rows


def integration_numbers(gathered: Gathered) -> Numbers:
    """MIR over the sampled depths but the first, which is the embedding's."""
    depths = gathered.depths[1:]
    found = modality_integration_rate(
        (_sample(gathered, VISUAL, depth).states_MD, _sample(gathered, TEXT, depth).states_MD) for depth in depths
    )
    return {"depths": list(depths), "rate": found.rate, "per_layer": list(found.per_layer)}


def neighbor_numbers(gathered: Gathered) -> list[Numbers]:
    """Intrinsic dimension of text and visual positions at the sampled depths, with its spread over subsamples."""
    return [
        {
            "depth": depth,
            **{
                f"{kind}_dimension": with_whole(_spread(twonn_dimension, _sample(gathered, kind, depth)))
                for kind in (VISUAL, TEXT)
            },
        }
        for depth in gathered.depths
    ]


def pair_numbers(pairs: Pairs, seed: int) -> list[Numbers]:
    """How alike images and their captions lie: debiased CKA and mutual neighbours, beside shuffled pairs."""
    num_pairs = len(pairs.image_ids)
    group_P = torch.arange(num_pairs)
    shuffled_P = torch.randperm(num_pairs, generator=torch.Generator().manual_seed(seed))
    rows = []
    for depth, visual_PD in pairs.visual_PD.items():
        text_PD = pairs.text_PD[depth]
        cka = jackknife(pair_folds(visual_PD, text_PD, group_P), linear_cka_debiased)
        beyond_chance = subsample_spread((visual_PD, text_PD), _mutual_beyond_chance, group_P, fraction=0.8, seed=seed)
        rows.append(
            {
                "depth": depth,
                "num_pairs": num_pairs,
                "cka": as_json(cka),
                "neighbors_beyond_chance": with_whole(beyond_chance),
                "shuffled_beyond_chance": _mutual_beyond_chance(visual_PD, text_PD[shuffled_P]),
            }
        )
    return rows


def gap_map(gathered: Gathered, depth: int, *, num_points: int = 160) -> Numbers:
    """Tokens of both modalities on a plane: along the difference of their means, and along what varies most beside it.

    Tokens are brought to length 1 first, as a decoder layer reads them through a norm.
    """
    points = {}
    for kind in (VISUAL, TEXT):
        states_MD = _sample(gathered, kind, depth).states_MD.double()
        points[kind] = torch.nn.functional.normalize(states_MD[:: max(1, len(states_MD) // num_points)], dim=1)
    apart_D = torch.nn.functional.normalize(points[VISUAL].mean(dim=0) - points[TEXT].mean(dim=0), dim=0)
    both_ND = torch.cat([points[VISUAL] - points[VISUAL].mean(dim=0), points[TEXT] - points[TEXT].mean(dim=0)])
    rest_ND = both_ND - (both_ND @ apart_D)[:, None] * apart_D
    widest_D = torch.linalg.svd(rest_ND, full_matrices=False).Vh[0]
    middle_D = (points[VISUAL].mean(dim=0) + points[TEXT].mean(dim=0)) / 2
    axes_D2 = torch.stack([apart_D, widest_D], dim=1)
    return {"depth": depth, **{kind: _rounded((x_ND - middle_D) @ axes_D2) for kind, x_ND in points.items()}}


def _rounded(points_N2: Tensor) -> list[list[float]]:
    return [[round(x, 4), round(y, 4)] for x, y in points_N2.tolist()]


def _sample(gathered: Gathered, kind: str, depth: int) -> Sample:
    sample = gathered.places[place_of(kind, depth)].sample
    assert sample is not None
    return sample


def _spread(measure: Any, sample: Sample) -> Spread:
    stride = -(-len(sample.states_MD) // MAX_SEARCHED)
    return subsample_spread(sample.states_MD[::stride], measure, sample.group_M[::stride])


def _mutual_beyond_chance(first_PD: Tensor, second_PD: Tensor) -> float:
    """Share of mutual neighbours less that of unrelated tables, which depends on the number of pairs."""
    return mutual_nearest_neighbors(first_PD, second_PD, NEIGHBORS) - NEIGHBORS / (len(first_PD) - 1)
