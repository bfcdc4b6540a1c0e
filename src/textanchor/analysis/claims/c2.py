"""C2: alignment is an asymmetric projection onto the text manifold (who moves in joint training: see `movement`)."""

from typing import Any

from textanchor.analysis.claims.claim import ClaimResult, judge
from textanchor.analysis.claims.margins import MARGINS

SPREAD = "range over the whole sample and 5 subsamples; no confidence level"
MINIMUM_R2 = 0.02
"""Below this neither direction predicts anything, and their difference is not one of alignment."""


def coverage(place: str, numbers: dict[str, Any]) -> ClaimResult:
    """Share of visual tokens within the text manifold less the share of text tokens within the visual one.

    `numbers` as `predictability.coverage_numbers` gives them.
    """
    found = numbers["difference"]
    interval = (found["low"], found["high"])
    return ClaimResult(
        claim="C2",
        name="coverage",
        statement="Visual positions lie within the manifold of text positions more than the reverse (difference of "
        "the shares of tokens within the third neighbour's reach)",
        place=place,
        value=found["estimate"],
        null=0.0,
        margin=MARGINS.coverage,
        direction="above",
        interval=interval,
        interval_kind=SPREAD,
        verdict=judge(interval, null=0.0, margin=MARGINS.coverage, direction="above"),
        caveat="Where both shares are near 0 the two lie apart, and nothing is projected onto anything; shares grow "
        "with the reach, so they compare only at equal numbers of tokens.",
    )


def predictability(place: str, numbers: dict[str, Any]) -> ClaimResult:
    """Cross-validated R^2 of images from captions less that of captions from images.

    A projection onto the text manifold leaves in the visual states only what text can say: they are then predicted from
    text, and text not from them. `numbers` as `predictability.prediction_numbers` gives them. Where neither direction
    predicts anything, the claim does not hold, whatever the difference.
    """
    found = numbers["difference"]
    interval = (found["low"], found["high"])
    shuffled = numbers["shuffled"]
    best = max(numbers[name]["high"] - shuffled[name] for name in ("text_from_visual", "visual_from_text"))
    verdict = judge(interval, null=0.0, margin=MARGINS.predictability, direction="above")
    return ClaimResult(
        claim="C2",
        name="predictability",
        statement="Images are predicted from their captions better than captions from their images (difference of "
        "cross-validated R²)",
        place=place,
        value=found["estimate"],
        null=0.0,
        margin=MARGINS.predictability,
        direction="above",
        interval=interval,
        interval_kind="95 % jackknife over 20 folds of images, fits held fixed",
        verdict=verdict if best > MINIMUM_R2 else "does not hold",
        caveat="Linear, of one mean state for each image and each caption; a caption says little of its image. "
        f"Shuffled pairs give {shuffled['visual_from_text']:.3f} and {shuffled['text_from_visual']:.3f}.",
    )


def agreement(place: str, numbers: dict[str, Any]) -> ClaimResult:
    """Shared nearest neighbours of images and their captions beyond chance. `numbers` as `tables.pair_numbers`."""
    found = numbers["neighbors_beyond_chance"]
    interval = (found["low"], found["high"])
    return ClaimResult(
        claim="C2",
        name="neighbour agreement",
        statement="Images that lie near each other have captions that lie near each other (share of the ten nearest "
        "neighbours in common, beyond chance)",
        place=place,
        value=found["estimate"],
        null=0.0,
        margin=MARGINS.alignment,
        direction="above",
        interval=interval,
        interval_kind="range over the whole sample and 5 subsamples of 80 %; no confidence level",
        verdict=judge(interval, null=0.0, margin=MARGINS.alignment, direction="above"),
        caveat=f"Shuffled pairs of this sample give {numbers['shuffled_beyond_chance']:.3f}. Agreement says that the "
        "two are aligned, not which of them was projected onto which.",
    )
