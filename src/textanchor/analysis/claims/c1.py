"""C1: text space is anisotropic and dominant (rigid: see `movement`)."""

from typing import Any

from textanchor.analysis.claims.claim import ClaimResult, judge
from textanchor.analysis.claims.margins import MARGINS

JACKKNIFE = "95 % jackknife over 20 folds of images or documents"


def anisotropy(place: str, numbers: dict[str, Any]) -> ClaimResult:
    """Participation ratio of text positions over that of Gaussian tokens of the same number and norms.

    `numbers` as `tables.place_numbers` gives them with intervals.
    """
    found, null = numbers["intervals"]["participation_ratio"], numbers["gaussian"]["norm_matched"]
    interval = (found["low"] / null, found["high"] / null)
    return ClaimResult(
        claim="C1",
        name="anisotropy",
        statement="Text positions spread their variance over fewer directions than Gaussian tokens of the same number "
        "and norms do (ratio of participation ratios)",
        place=place,
        value=found["estimate"] / null,
        null=1.0,
        margin=MARGINS.anisotropy,
        direction="below",
        interval=interval,
        interval_kind=JACKKNIFE,
        verdict=judge(interval, null=1.0, margin=MARGINS.anisotropy, direction="below"),
        caveat="A language model with random weights may be as anisotropic: compare the reference column. A few large "
        "channels are enough; the ratio does not say that all text lies in a cone.",
    )


def dominance(place: str, numbers: dict[str, Any]) -> ClaimResult:
    """Share of visual energy in the leading text directions less the share of text energy in the leading visual ones.

    `numbers` as `subspaces.subspace_numbers` gives them. Random bases of that rank explain the same share both ways, so
    the null is 0.
    """
    found = numbers["difference"]
    interval = (found["low"], found["high"])
    return ClaimResult(
        claim="C1",
        name="dominance",
        statement=f"The leading {numbers['num_directions']} text directions explain more of the visual positions than "
        "as many visual directions explain of the text positions (difference of the shares, both beyond chance)",
        place=place,
        value=found["estimate"],
        null=0.0,
        margin=MARGINS.dominance,
        direction="above",
        interval=interval,
        interval_kind=JACKKNIFE,
        verdict=judge(interval, null=0.0, margin=MARGINS.dominance, direction="above"),
        caveat="Text that spans more kinds of content than the images has the wider basis for that reason alone; bases "
        f"of shuffled states explain {numbers['visual_by_shuffled_text']:.2f} and "
        f"{numbers['text_by_shuffled_visual']:.2f}, by the variances of the channels.",
    )
