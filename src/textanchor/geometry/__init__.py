"""Measures of the geometry of states, (N, D) tables of tokens, with intervals over images or documents.

Formulas, costs and caveats: docs/geometry.md.
"""

from textanchor.geometry.gap import ModalityIntegration, frechet, modality_gap, modality_integration_rate, norm_ratio
from textanchor.geometry.groups import FoldedStream, MomentFolds, StateFolds, pair_folds, state_folds
from textanchor.geometry.intervals import Spread, jackknife, jackknife_each, subsample_spread
from textanchor.geometry.lens import NearestTokens, nearest_text_tokens
from textanchor.geometry.moments import PairMoments, StateMoments
from textanchor.geometry.neighbors import (
    Neighbors,
    hubness,
    mutual_nearest_neighbors,
    nearest_neighbors,
    twonn_dimension,
)
from textanchor.geometry.similarity import centred_mean_cosine, linear_cka_debiased, mean_cosine, procrustes_residual
from textanchor.geometry.spectra import (
    Spectrum,
    effective_rank,
    isoscore_star,
    outlier_dimensions,
    participation_ratio,
    spectral_slope,
    spectrum,
    top_energy,
)
from textanchor.geometry.subspaces import (
    principal_angles,
    principal_directions,
    random_directions,
    shuffled_directions,
    subspace_energy,
    subspace_overlap,
)

__all__ = [
    "FoldedStream",
    "ModalityIntegration",
    "MomentFolds",
    "NearestTokens",
    "Neighbors",
    "PairMoments",
    "Spectrum",
    "Spread",
    "StateFolds",
    "StateMoments",
    "centred_mean_cosine",
    "effective_rank",
    "frechet",
    "hubness",
    "isoscore_star",
    "jackknife",
    "jackknife_each",
    "linear_cka_debiased",
    "mean_cosine",
    "modality_gap",
    "modality_integration_rate",
    "mutual_nearest_neighbors",
    "nearest_neighbors",
    "nearest_text_tokens",
    "norm_ratio",
    "outlier_dimensions",
    "pair_folds",
    "participation_ratio",
    "principal_angles",
    "principal_directions",
    "procrustes_residual",
    "random_directions",
    "shuffled_directions",
    "spectral_slope",
    "spectrum",
    "state_folds",
    "subsample_spread",
    "subspace_energy",
    "subspace_overlap",
    "top_energy",
    "twonn_dimension",
]
