"""How far apart visual and text states lie: means, norms, Frechet distance, Modality Integration Rate.

Shape legend: N tokens, V and T visual and text tokens, D width.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from textanchor.errors import DataError
from textanchor.geometry.inputs import as_states, require_more_tokens_than_width, require_same_width, unit_rows
from textanchor.geometry.moments import StateMoments
from textanchor.geometry.spectra import NEGATIVE_TOLERANCE, covariance_of
from textanchor.spectral import Moments

OUTLIER_DEVIATIONS = 3.0


def modality_gap(visual: Tensor | StateMoments, text: Tensor | StateMoments, *, normalised: bool) -> float:
    """||mean visual - mean text||, of the states as they are or (`normalised`) of each state at length 1; O(N D).

    Source: Liang et al. 2022 (arXiv 2203.02053), which normalises. The raw gap grows with the norms. DataError where
    widths differ, or a state that is to be normalised is all zeros.
    """
    visual_D, text_D = (
        _mean(sample, name, normalised=normalised) for sample, name in ((visual, "visual"), (text, "text"))
    )
    require_same_width(len(visual_D), len(text_D))
    return float(torch.linalg.vector_norm(visual_D - text_D))


def norm_ratio(visual: Tensor | StateMoments, text: Tensor | StateMoments) -> float:
    """Mean norm of the visual states over that of the text states; O(N D). DataError where the latter is zero."""
    visual_norm, text_norm = (_mean_norm(sample, name) for sample, name in ((visual, "visual"), (text, "text")))
    if text_norm == 0:
        raise DataError("all text states are zero, so there is no norm to compare with")
    return visual_norm / text_norm


def frechet(visual: Tensor | Moments, text: Tensor | Moments) -> float:
    """Squared Frechet (Bures-Wasserstein) distance between Gaussians with the samples' means and covariances.

    ||m_v - m_t||^2 + tr(C_v + C_t - 2 (C_v^1/2 C_t C_v^1/2)^1/2), covariances over N - 1 as in the FID. The last trace
    is taken as the sum of singular values of C_v^1/2 C_t^1/2, which is accurate where a covariance is singular too.
    O(N D^2 + D^3). It is biased upwards, more so the smaller N. DataError where widths differ, tokens are not more than
    dimensions, or the decomposition fails.
    """
    (visual_D, visual_DD, num_visual), (text_D, text_DD, num_text) = (
        covariance_of(visual, "visual"),
        covariance_of(text, "text"),
    )
    require_same_width(len(visual_D), len(text_D))
    require_more_tokens_than_width(num_visual, len(visual_D), "visual")
    require_more_tokens_than_width(num_text, len(text_D), "text")
    cross = _svdvals(_square_root(visual_DD) @ _square_root(text_DD)).sum()
    squared = (visual_D - text_D).square().sum() + visual_DD.trace() + text_DD.trace() - 2 * cross
    return max(float(squared), 0.0)


@dataclass(frozen=True)
class ModalityIntegration:
    """`rate` = log10 of the sum of the layers' distances; lower is better integrated."""

    rate: float
    per_layer: tuple[float, ...]


def modality_integration_rate(layers: Iterable[tuple[Tensor, Tensor]]) -> ModalityIntegration:
    """MIR over pairs of (V, D) visual and (T, D) text states, one pair per LLM layer, the embedding layer left out.

    Per layer both are divided by the mean text norm; states whose norm is more than 3 sd off the median norm become the
    coordinatewise median; then the Frechet distance. Source: Huang et al. 2024 (arXiv 2410.07167), for any number of
    visual tokens. O(N D^2 + D^3) per layer. DataError as `frechet`, and where all distances are zero.
    """
    per_layer = tuple(_layer_distance(visual_VD, text_TD) for visual_VD, text_TD in layers)
    if not sum(per_layer) > 0:
        raise DataError("MIR needs at least one layer in which visual and text states differ")
    return ModalityIntegration(math.log10(sum(per_layer)), per_layer)


def _layer_distance(visual_VD: Tensor, text_TD: Tensor) -> float:
    visual_VD, text_TD = as_states(visual_VD, "visual", least=2), as_states(text_TD, "text", least=2)
    scale = 1 / _positive(_mean_norm(text_TD, "text"))
    return frechet(_without_outliers(visual_VD * scale), _without_outliers(text_TD * scale))


def _without_outliers(x_ND: Tensor) -> Tensor:
    norms_N = torch.linalg.vector_norm(x_ND, dim=1)
    is_outlier_N = (norms_N - norms_N.median()).abs() > OUTLIER_DEVIATIONS * norms_N.std()
    return torch.where(is_outlier_N[:, None], x_ND.median(dim=0).values, x_ND)


def _positive(text_norm: float) -> float:
    if text_norm == 0:
        raise DataError("all text states are zero, so there is no norm to scale by")
    return text_norm


def _mean(sample: Tensor | StateMoments, name: str, *, normalised: bool) -> Tensor:
    if isinstance(sample, StateMoments):
        if normalised:
            return sample.mean_unit_D
        if sample.moments.unit_norm:
            raise DataError(f"{name}: the raw gap needs moments of the states as they are (unit_norm=False)")
        return sample.moments.mean_D
    x_ND = as_states(sample, name)
    return (unit_rows(x_ND, name) if normalised else x_ND).mean(dim=0)


def _mean_norm(sample: Tensor | StateMoments, name: str) -> float:
    if isinstance(sample, StateMoments):
        return sample.mean_norm
    return float(torch.linalg.vector_norm(as_states(sample, name), dim=1).mean())


def _square_root(covariance_DD: Tensor) -> Tensor:
    try:
        eigenvalues_D, vectors_DD = torch.linalg.eigh(covariance_DD)
    except RuntimeError as error:  # torch.linalg.LinAlgError, which torch does not export
        raise DataError(f"no Frechet distance: decomposing a covariance failed ({error})") from error
    if float(eigenvalues_D[0]) < -NEGATIVE_TOLERANCE * float(eigenvalues_D[-1].abs()):
        raise DataError(f"no Frechet distance: a covariance has the negative eigenvalue {float(eigenvalues_D[0]):g}")
    return (vectors_DD * eigenvalues_D.clamp_min(0).sqrt()) @ vectors_DD.T


def _svdvals(matrix_DD: Tensor) -> Tensor:
    try:
        return torch.linalg.svdvals(matrix_DD)
    except RuntimeError as error:
        raise DataError(f"no Frechet distance: decomposing a product of covariances failed ({error})") from error
