"""CIDEr-D: how like a caption is to the captions that people wrote of the image, rare words weighing more.

"CIDEr: Consensus-based Image Description Evaluation", arXiv 1411.5726, section 5 (the variant -D); as in the
reference implementation the length penalty counts bigrams. Words are runs of letters, digits and apostrophes in lower
case, in place of the Stanford tokenizer, which needs Java: scores of published tables differ by what that does.
"""

import math
from collections import Counter
from collections.abc import Sequence

from textanchor.errors import DataError
from textanchor.evaluation.scoring.parsing import words

MAX_N = 4
SIGMA = 6.0
"""Standard deviation of the length penalty, in bigrams."""

Ngrams = Counter[tuple[str, ...]]


def cider_d(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each of N captions of N images, from 0 to 10; document frequencies come from all the references.

    DataError for fewer than two images, of which every word would be in all, and for an image without references.
    """
    if len(captions) < 2:
        raise DataError("CIDEr-D weighs words by how many images they are said of, so it needs at least two images")
    if not all(references):
        number = next(i for i, own in enumerate(references) if not own)
        raise DataError(f"image {number + 1} has no reference caption, so nothing can be compared with its caption")
    counts = [[_ngrams(reference) for reference in own] for own in references]
    frequency = Counter(ngram for own in counts for ngram in set().union(*own))
    weight = {ngram: math.log(len(captions) / n) for ngram, n in frequency.items()}
    unseen = math.log(len(captions))  # as for an n-gram of one image
    return [
        _mean([_similarity(_ngrams(caption), reference, weight, unseen) for reference in own])
        for caption, own in zip(captions, counts, strict=True)
    ]


def _ngrams(caption: str) -> Ngrams:
    """How often each 1- to 4-gram occurs."""
    tokens = words(caption)
    return Counter(tuple(tokens[i : i + n]) for n in range(1, MAX_N + 1) for i in range(len(tokens) - n + 1))


def _similarity(candidate: Ngrams, reference: Ngrams, weight: dict[tuple[str, ...], float], unseen: float) -> float:
    """Ten times the mean over n of the clipped cosine, with the length penalty."""
    cosines = []
    for n in range(1, MAX_N + 1):
        ours, theirs = (
            {g: count * weight.get(g, unseen) for g, count in grams.items() if len(g) == n}
            for grams in (candidate, reference)
        )
        norms = math.hypot(*ours.values()) * math.hypot(*theirs.values())
        overlap = sum(min(value, theirs[g]) * theirs[g] for g, value in ours.items() if g in theirs)
        cosines.append(overlap / norms if norms else 0.0)
    difference = _num_bigrams(candidate) - _num_bigrams(reference)
    return 10.0 * _mean(cosines) * math.exp(-(difference**2) / (2 * SIGMA**2))


def _num_bigrams(grams: Ngrams) -> int:
    return sum(count for gram, count in grams.items() if len(gram) == 2)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
