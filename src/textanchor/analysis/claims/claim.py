"""What a claim is: a value against a null, a margin that was declared before any result, an interval and a verdict."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from textanchor.errors import DataError

Verdict = Literal["holds", "does not hold", "undecided"]
Direction = Literal["above", "below"]


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """One claim at one place of the model."""

    claim: str
    """C1, C2 or C3."""
    name: str
    statement: str
    """What is claimed, in words that say what `value` is."""
    place: str
    """Where in the model it was measured."""
    value: float
    null: float
    """What the value is where the claim is false and nothing else happens."""
    margin: float
    """How far beyond the null the value must lie; see `margins`."""
    direction: Direction
    """On which side of the null the claim expects the value."""
    interval: tuple[float, float]
    interval_kind: str
    """How the interval was made, and of what."""
    verdict: Verdict
    caveat: str
    """What the verdict does not say."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "interval": list(self.interval)}

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.claim} {self.name}, {self.place}: {self.value:.3g} [{low:.3g}, {high:.3g}] against "
            f"{self.null:.3g} with margin {self.margin:.3g}: {self.verdict}"
        )


def judge(interval: tuple[float, float], *, null: float, margin: float, direction: Direction) -> Verdict:
    """Holds where the whole interval lies beyond null and margin, does not hold where none of it does, else undecided.

    DataError for an interval that is not one, because a verdict must never come out of a failed measurement.
    """
    low, high = interval
    if not low <= high:
        raise DataError(f"a verdict needs an interval, found [{low}, {high}]; the measurement before it failed")
    if margin < 0:
        raise ValueError(f"a margin is a distance, found {margin}")
    if direction == "above":
        return "holds" if low > null + margin else "does not hold" if high <= null + margin else "undecided"
    return "holds" if high < null - margin else "does not hold" if low >= null - margin else "undecided"


def overall(results: Sequence[ClaimResult]) -> Verdict:
    """Of one claim at several depths: holds (or does not) only where it holds (or does not) at every one of them."""
    if not results:
        raise DataError("no result to sum up; measure the claim at one place at least")
    first = results[0].verdict
    return first if all(result.verdict == first for result in results) else "undecided"
