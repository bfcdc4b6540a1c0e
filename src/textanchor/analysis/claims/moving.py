"""C1 rigidity and C2 who moves: claims about a joint tuning, from `movement.movement_numbers`."""

from typing import Any

from textanchor.analysis.claims.claim import ClaimResult, judge
from textanchor.analysis.claims.margins import MARGINS

INTERVAL = "95 % jackknife over 20 folds of held-out images and texts; one pair of tunings, one seed"


def rigidity(place: str, numbers: dict[str, Any]) -> ClaimResult:
    """log of (text way / visual way) under shifted images over (visual way / text way) under shifted text.

    Ways are root mean squared displacements of unit states over their spread, for each unit of relative update of the
    part in front of them, at equal loss reduction. 0 where the two modalities are each other's mirror image.
    """
    return _claim(
        "C1",
        "rigidity",
        "Shifted images move text states less than equally hard shifted text moves image states (log ratio of the "
        "ways, by relative update)",
        place,
        numbers["rigidity"],
        margin=MARGINS.rigidity,
        direction="below",
    )


def movement(place: str, numbers: dict[str, Any]) -> ClaimResult:
    """log of (visual way / text way) under shifted images, by relative update as in `rigidity`."""
    return _claim(
        "C2",
        "who moves",
        "Where both halves are tuned together on shifted images, image states move further than text states (log ratio "
        "of the ways, by relative update)",
        place,
        numbers["movement"],
        margin=MARGINS.movement,
        direction="above",
    )


def _claim(
    claim: str, name: str, statement: str, place: str, found: dict[str, float], *, margin: float, direction: Any
) -> ClaimResult:
    interval = (found["low"], found["high"])
    return ClaimResult(
        claim=claim,
        name=name,
        statement=statement,
        place=place,
        value=found["estimate"],
        null=0.0,
        margin=margin,
        direction=direction,
        interval=interval,
        interval_kind=INTERVAL,
        verdict=judge(interval, null=0.0, margin=margin, direction=direction),
        caveat="The interval is over held-out images and texts, not over tunings: another seed or shift may give "
        "another verdict. LoRA of one rank and rate on both halves is equal freedom in form; their sizes differ.",
    )
