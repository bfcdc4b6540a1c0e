"""The margins of all claims with their reasons, declared before any result was seen; changing one is a new version."""

from dataclasses import dataclass

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Margins:
    """How far beyond its null a value must lie for its claim to hold."""

    anisotropy: float = 0.5
    """Participation ratio below half of what Gaussian tokens of the same number and norms have. Any real layer lies a
    little below one: its channels have unequal variances, which halve the ratio only if a tenth of them carries half of
    the variance or so. Less than that is no cone worth the name."""
    dominance: float = 0.10
    """Difference of two shares of energy. Ten points are what separates a usable subspace from a slightly better one;
    random bases of the same rank differ by less than one point at the sizes measured."""
    rigidity: float = 0.6931471805599453
    """log 2: text states move less than half as far, relative to their spread, as the control's mirror image predicts.
    Two runs of the same kind with different seeds differ by 10 to 30 per cent in such ratios."""
    coverage: float = 0.10
    """Difference of two shares of tokens that lie within the other modality's manifold."""
    predictability: float = 0.05
    """Difference of two cross-validated R^2. Below five points of variance neither direction is of practical use over
    the other."""
    alignment: float = 0.05
    """Mutual neighbours beyond those of shuffled pairs, as a share of k; one neighbour in twenty."""
    movement: float = 0.4054651081081644
    """log 1.5: one side moves at least half as far again as the other."""
    explanation: float = 0.30
    """Partial rank correlation over runs; less explains under a tenth of the variance of the ranks."""


MARGINS = Margins()
