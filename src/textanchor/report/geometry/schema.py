"""What geometry.json holds: the literal shape, and the rules between keys."""

from collections.abc import Iterator
from typing import Any

from textanchor.report.check import (
    INTERVAL,
    Named,
    OneOf,
    Report,
    Shape,
    is_count,
    is_number,
    is_object,
    is_png,
    is_share,
    is_text,
)
from textanchor.tables import CLAIM_VERDICTS

KINDS = ("text", "visual")


def is_verdict(value: Any) -> str | None:
    """One of the three verdicts."""
    return None if value in CLAIM_VERDICTS else f"one of {', '.join(CLAIM_VERDICTS)}"


def is_pair(value: Any) -> str | None:
    """Two numbers: a point of a map, or the ends of an interval."""
    fits = isinstance(value, list) and len(value) == 2 and not any(map(is_number, value))
    return None if fits else "two numbers"


def is_word_and_count(value: Any) -> str | None:
    """A word and how many image tokens read as it."""
    fits = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and is_count(value[1]) is None
    return None if fits else "a word and a count"


DRAWN = {name: is_number for name in ("participation_ratio", "mean_cosine", "effective_rank", "top_energy")}
DRAWN_INTERVALS = {name: INTERVAL for name in DRAWN}
PLACE: Shape = {
    "num_tokens": is_count,
    "num_sinks": is_count,
    "width": is_count,
    "mean_norm": is_number,
    "outlier_dimensions": is_count,
    "measures": DRAWN,
    "intervals?": DRAWN_INTERVALS,
    "gaussian?": {"isotropic": is_number, "norm_matched": is_number},
}
CLAIM: Shape = {
    "claim": is_text,
    "name": is_text,
    "statement": is_text,
    "place": is_text,
    "value": is_number,
    "null": is_number,
    "margin": is_number,
    "direction": is_text,
    "interval": is_pair,
    "interval_kind": is_text,
    "verdict": is_verdict,
    "caveat": is_text,
}
SUBSPACES: Shape = {
    "depth": is_count,
    "num_directions": is_count,
    "visual_by_text": INTERVAL,
    "text_by_visual": INTERVAL,
    "chance": is_share,
    "visual_by_shuffled_text": is_share,
    "text_by_shuffled_visual": is_share,
    "angles": [is_number],
    "random_angles": [is_number],
}
GEOMETRY: Shape = {
    "title": is_text,
    "created": is_text,
    "textanchor_version": is_text,
    "command": OneOf(is_text, [is_text]),
    "environment": is_object,
    "config": is_object,
    "model": {"name": is_text},
    "data": {"name": is_text, "num_images": is_count},
    "depths": [is_count],
    "places": Named(PLACE, at_least=1),
    "spectra": Named([is_number]),
    "between": [
        {
            "depth": is_count,
            "gap": is_number,
            "gap_normalised": is_number,
            "norm_ratio": is_number,
            "frechet": is_number,
        }
    ],
    "integration": {"depths": [is_count], "per_layer": [is_number], "rate": is_number},
    "subspaces": [SUBSPACES],
    "coverage": [{"depth": is_count, "visual_in_text": INTERVAL, "text_in_visual": INTERVAL}],
    "dimension": [{"depth": is_count, "visual_dimension": INTERVAL, "text_dimension": INTERVAL}],
    "pairs": [
        {
            "depth": is_count,
            "num_pairs": is_count,
            "cka": INTERVAL,
            "neighbors_beyond_chance": INTERVAL,
            "shuffled_beyond_chance": is_number,
            "prediction": {
                "text_from_visual": INTERVAL,
                "visual_from_text": INTERVAL,
                "shuffled": {"text_from_visual": is_number, "visual_from_text": is_number},
            },
        }
    ],
    "gap_map": [{"depth": is_count, "visual": [is_pair], "text": [is_pair]}],
    "random_weights": [{"depth": is_count, "measures": DRAWN}],
    "lens?": {
        "summary": [
            {
                "lens": is_text,
                "depth": is_count,
                "num_tokens": is_count,
                "mean_best_cosine?": is_number,
                "different_words": is_share,
                "most_common_word": is_share,
            }
        ],
        "gallery": [
            {"image_png_base64": is_png, "id": is_text, "captions": [is_text], "words": Named([is_word_and_count])}
        ],
    },
    "movement?": is_object,
    "claims": [CLAIM],
    "verdicts": [{"claim": is_text, "name": is_text, "verdict": is_verdict, "holds_at": [is_text]}],
    "not_measured": [{"what": is_text, "why": is_text}],
}


def problems_between_keys(geometry: Report) -> Iterator[str]:
    """Where keys that fit by themselves are at odds with each other."""
    if not geometry["depths"]:
        yield "`depths` is empty, expected at least one"
        return
    yield from _problems_of_places(geometry)
    yield from _problems_of_subspaces(geometry)
    yield from (
        f"key `gap_map[{i}].{kind}` is empty, expected points"
        for i, entry in enumerate(geometry["gap_map"])
        for kind in KINDS
        if not entry[kind]
    )
    claimed = {(claim["claim"], claim["name"]) for claim in geometry["claims"]}
    yield from (
        f"`verdicts[{i}]` is of {verdict['claim']} {verdict['name']}, which is none of the `claims`"
        for i, verdict in enumerate(geometry["verdicts"])
        if (verdict["claim"], verdict["name"]) not in claimed
    )


def _problems_of_places(geometry: Report) -> Iterator[str]:
    """Places and spectra are drawn by their names, a kind and a depth."""
    for kind in KINDS:
        named = [name.removeprefix(f"{kind} ") for name in geometry["places"] if name.startswith(f"{kind} ")]
        if not named or not all(depth.isdecimal() and len(depth) < 7 for depth in named):
            yield f"`places` are named {', '.join(geometry['places'])}, expected `{kind} DEPTH` among them"
    depths = geometry["depths"]
    for depth in dict.fromkeys((depths[0], depths[len(depths) // 2], depths[-1])):
        spectra = [geometry["spectra"].get(f"{kind} {depth}", []) for kind in KINDS]
        if len(spectra[0]) != len(spectra[1]) or not all(max(shares, default=0) > 0 for shares in spectra):
            yield f"`spectra` has not the same number of shares for `text {depth}` and `visual {depth}`"


def _problems_of_subspaces(geometry: Report) -> Iterator[str]:
    """Energy, angles, coverage and dimension are shown beside one another."""
    rows = geometry["subspaces"]
    if not rows:
        return
    yield from (f"`{key}` is empty, and `subspaces` is not" for key in ("coverage", "dimension") if not geometry[key])
    numbers = {len(row[key]) for row in rows for key in ("angles", "random_angles")}
    if len(numbers) > 1 or 0 in numbers:
        yield "`subspaces` has rows of different numbers of `angles` and `random_angles`"
