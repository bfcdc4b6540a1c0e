"""How the variance of states is spread over directions: spectrum, ranks, energy, slope, outlier dimensions.

Everything here is of the centred covariance and takes the states, their `Moments`, or a `Spectrum` that several
measures share. Shape legend: N tokens, D width.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from textanchor.errors import DataError
from textanchor.geometry.inputs import as_states, require_more_tokens_than_width
from textanchor.spectral import Moments

NEGATIVE_TOLERANCE = 1e-10  # times the largest eigenvalue: a covariance has none below, but for rounding


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of a covariance, largest first, none negative, and the number of tokens that it is of."""

    eigenvalues_D: Tensor
    count: float


def covariance_of(sample: Tensor | Moments, name: str = "states") -> tuple[Tensor, Tensor, float]:
    """(D,) mean, (D, D) covariance with N - 1 in the denominator, and the number of tokens N; at least two tokens."""
    if isinstance(sample, Moments):
        if sample.count <= 1:
            raise DataError(f"{name}: a covariance needs at least 2 tokens, found {sample.count:g}")
        return sample.mean_D, sample.covariance_DD * (sample.count / (sample.count - 1)), sample.count
    x_ND = as_states(sample, name, least=2)
    mean_D = x_ND.mean(dim=0)
    centred_ND = x_ND - mean_D
    return mean_D, centred_ND.T @ centred_ND / (len(x_ND) - 1), len(x_ND)


def spectrum(sample: Tensor | Moments) -> Spectrum:
    """Eigenvalues of the covariance; O(N D^2 + D^3).

    DataError where tokens are not more than dimensions, where all are equal, and where the decomposition fails.
    """
    _, covariance_DD, count = covariance_of(sample)
    require_more_tokens_than_width(count, len(covariance_DD))
    return Spectrum(eigenvalues_of(covariance_DD), count)


def eigenvalues_of(covariance_DD: Tensor) -> Tensor:
    """(D,) eigenvalues of a covariance, largest first; DataError where it is none, is zero, or cannot be decomposed."""
    if not torch.isfinite(covariance_DD).all():
        raise DataError("the covariance is not finite, so it has no spectrum; measure the states anew")
    try:
        eigenvalues_D = torch.linalg.eigvalsh((covariance_DD + covariance_DD.T) / 2).flip(0)
    except RuntimeError as error:  # torch.linalg.LinAlgError, which torch does not export
        raise DataError(
            f"decomposing a {len(covariance_DD)} x {len(covariance_DD)} covariance failed ({error})"
        ) from error
    largest = float(eigenvalues_D[0])
    if largest <= 0:
        raise DataError("all states are equal, so no direction has any variance")
    if float(eigenvalues_D[-1]) < -NEGATIVE_TOLERANCE * largest:
        raise DataError(f"the covariance has the negative eigenvalue {float(eigenvalues_D[-1]):g}: it is none")
    return eigenvalues_D.clamp_min(0)


def effective_rank(sample: Tensor | Moments | Spectrum) -> float:
    """exp of the entropy of p = s / sum(s), s the singular values of the centred states; 1 to D.

    Source: Roy and Vetterli 2007 (which takes singular values, not eigenvalues). DataError as `spectrum`.
    """
    sizes_D = _spectrum_of(sample).eigenvalues_D.sqrt()
    shares_D = sizes_D / sizes_D.sum()
    return math.exp(float(torch.special.entr(shares_D).sum()))


def participation_ratio(sample: Tensor | Moments | Spectrum) -> float:
    """(sum l)^2 / sum l^2 over eigenvalues l; 1 to D, D for an isotropic source. DataError as `spectrum`."""
    eigenvalues_D = _spectrum_of(sample).eigenvalues_D
    return float(eigenvalues_D.sum().square() / eigenvalues_D.square().sum())


def top_energy(sample: Tensor | Moments | Spectrum, num_directions: int) -> float:
    """Share of the variance in the leading `num_directions` principal directions; k/D for an isotropic source."""
    eigenvalues_D = _spectrum_of(sample).eigenvalues_D
    _require_between(num_directions, 1, len(eigenvalues_D), "num_directions")
    return float(eigenvalues_D[:num_directions].sum() / eigenvalues_D.sum())


def spectral_slope(sample: Tensor | Moments | Spectrum, *, first_rank: int, last_rank: int) -> float:
    """alpha of l_i ~ i^-alpha: minus the least-squares slope of log l_i on log i, i from first_rank to last_rank.

    Ranks count from 1, both ends are included and must be stated, because alpha depends on them. Source: Stringer et
    al. 2019. DataError where an eigenvalue in the range is zero, and as `spectrum`.
    """
    eigenvalues_D = _spectrum_of(sample).eigenvalues_D
    _require_between(first_rank, 1, len(eigenvalues_D) - 1, "first_rank")
    _require_between(last_rank, first_rank + 1, len(eigenvalues_D), "last_rank")
    chosen_R = eigenvalues_D[first_rank - 1 : last_rank]
    if float(chosen_R[-1]) <= 0:
        raise DataError(f"eigenvalue {last_rank} is zero, so the slope is not defined; end the range before it")
    x_R = torch.arange(first_rank, last_rank + 1, dtype=torch.float64).log()
    x_R = x_R - x_R.mean()
    return -float((x_R @ chosen_R.log()) / (x_R @ x_R))


def outlier_dimensions(sample: Tensor | Moments, *, deviations: float = 3.0) -> list[int]:
    """Coordinates whose mean is more than `deviations` standard deviations (over coordinates) off the average mean.

    Source: Kovaleva et al. 2021 (arXiv 2105.06990). They carry much of raw cosine and norm; report measures without
    them too.
    """
    mean_D = sample.mean_D if isinstance(sample, Moments) else as_states(sample).mean(dim=0)
    offset_D = (mean_D - mean_D.mean()).abs()
    return torch.nonzero(offset_D > deviations * mean_D.std(correction=0)).flatten().tolist()


def isoscore_star(sample: Tensor | Moments | Spectrum, zeta: float = 0.0, *, target_DD: Tensor | None = None) -> float:
    """Isotropy of the covariance (1 - zeta) C + zeta T: 1 if all directions have equal variance, 0 if one has all.

    Source: IsoScore* (arXiv 2305.19358) in its authors' convention, zeta the weight of the target; zeta = 0 is IsoScore
    (2108.07344). Without `target_DD`, T is the mean variance times the identity, which, unlike the plain identity,
    does not let the unit of the states decide the score. With zeta > 0 tokens may be fewer than dimensions.
    DataError for zeta outside [0, 1], and as `spectrum`.
    """
    if not 0 <= zeta <= 1:
        raise DataError(f"zeta is the weight of the target and lies in [0, 1], found {zeta}")
    eigenvalues_D = _shrunk_eigenvalues(sample, zeta, target_DD)
    width = len(eigenvalues_D)
    if width < 2:
        raise DataError("isotropy needs at least 2 dimensions")
    scaled_D = eigenvalues_D * (math.sqrt(width) / torch.linalg.vector_norm(eigenvalues_D))
    squared_defect = float((scaled_D - 1).square().sum()) / (2 * (width - math.sqrt(width)))
    share = (width - squared_defect * (width - math.sqrt(width))) ** 2 / width**2
    return (width * share - 1) / (width - 1)


def _shrunk_eigenvalues(sample: Tensor | Moments | Spectrum, zeta: float, target_DD: Tensor | None) -> Tensor:
    if target_DD is None and (zeta == 0 or isinstance(sample, Spectrum)):
        eigenvalues_D = _spectrum_of(sample).eigenvalues_D
        return (1 - zeta) * eigenvalues_D + zeta * eigenvalues_D.mean()
    if isinstance(sample, Spectrum):
        raise DataError("a target covariance needs the states or their moments: a spectrum has no directions")
    _, covariance_DD, count = covariance_of(sample)
    width = len(covariance_DD)
    if zeta == 0:
        require_more_tokens_than_width(count, width)
    if target_DD is None:
        target_DD = torch.eye(width, dtype=torch.float64) * (covariance_DD.trace() / width)
    if target_DD.shape != covariance_DD.shape:
        raise DataError(f"the target must be a {width} x {width} covariance, found {tuple(target_DD.shape)}")
    return eigenvalues_of((1 - zeta) * covariance_DD + zeta * target_DD.double())


def _spectrum_of(sample: Tensor | Moments | Spectrum) -> Spectrum:
    return sample if isinstance(sample, Spectrum) else spectrum(sample)


def _require_between(value: int, least: int, most: int, name: str) -> None:
    if not least <= value <= most:
        raise DataError(f"{name} must lie between {least} and {most} for states of this width, found {value}")
