"""CIDEr-D against the reference implementation's numbers and against the paper's formula written out with vectors."""

import numpy as np
import pytest

from textanchor.errors import DataError
from textanchor.evaluation.results.cider import cider_d

CAPTIONS = [
    "a red circle in the top left and a blue star in the top right",
    "a blue ring",
    "a dog runs on the green green grass near a dog",
    "",
    "two people ride a bicycle down the long street",
]
REFERENCES = [
    ["a red circle in the top left and a blue square in the top right"],
    ["a blue ring in the bottom right", "a ring"],
    ["a brown dog runs across the green grass", "the dog is running on grass", "a dog on grass"],
    ["a cat"],
    ["two people ride a bicycle", "a man and a woman ride bicycles down a street"],
]
PYCOCOEVALCAP = [8.073848478188378, 2.710165166212857, 1.1045453791883975, 0.0, 3.244020813071064]
"""CiderScorer(n=4, sigma=6.0) of pycocoevalcap 1.2 on these captions, which its tokenizer would leave as they are."""


def test_the_reference_implementations_numbers() -> None:
    assert cider_d(CAPTIONS, REFERENCES) == pytest.approx(PYCOCOEVALCAP, abs=1e-12)


def by_the_formula(captions: list[str], references: list[list[str]]) -> list[float]:
    """Equations of arXiv 1411.5726, sections 4 and 5, with one dense vector for each n and text."""

    def grams(text: str, n: int) -> list[str]:
        tokens = text.split()
        return [" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]

    scores = np.zeros(len(captions))
    for n in range(1, 5):
        texts = [*captions, *(text for own in references for text in own)]
        names = sorted({gram for text in texts for gram in grams(text, n)})
        frequency = np.array([max(1, sum(any(g in grams(t, n) for t in own) for own in references)) for g in names])
        inverse = np.log(len(captions) / frequency)

        def vector(text: str, n: int = n, names: list[str] = names, inverse: np.ndarray = inverse) -> np.ndarray:
            return np.array([grams(text, n).count(name) for name in names], dtype=float) * inverse

        for i, (caption, own) in enumerate(zip(captions, references, strict=True)):
            for reference in own:
                c, r = vector(caption), vector(reference)
                norms = np.linalg.norm(c) * np.linalg.norm(r)
                cosine = np.minimum(c, r) @ r / norms if norms > 0 else 0.0
                gap = len(grams(caption, 2)) - len(grams(reference, 2))
                scores[i] += 10 * np.exp(-(gap**2) / (2 * 6.0**2)) * cosine / len(own) / 4
    return scores.tolist()


def test_the_formula_written_out() -> None:
    rng = np.random.default_rng(0)
    names = ["a", "the", "red", "blue", "dog", "cat", "sits", "runs", "on", "near", "grass", "street"]
    captions = [" ".join(rng.choice(names, size=rng.integers(0, 14))) for _ in range(12)]
    references = [
        [" ".join(rng.choice(names, size=rng.integers(1, 14))) for _ in range(rng.integers(1, 5))] for _ in range(12)
    ]
    expected = by_the_formula(captions, references)
    assert max(expected) > 0.5
    assert cider_d(captions, references) == pytest.approx(expected, abs=1e-9)


def test_the_references_themselves_score_highest() -> None:
    own = [references[0] for references in REFERENCES]
    assert cider_d(own, [[text] for text in own])[0] == pytest.approx(10.0)


def test_case_and_punctuation_do_not_matter() -> None:
    shouted = [f"{caption.upper()}!" for caption in CAPTIONS]
    assert cider_d(shouted, REFERENCES) == pytest.approx(PYCOCOEVALCAP, abs=1e-12)


def test_what_cannot_be_weighed_is_refused() -> None:
    with pytest.raises(DataError, match="two images"):
        cider_d(["a dog"], [["a dog"]])
    with pytest.raises(DataError, match="image 2"):
        cider_d(["a dog", "a cat"], [["a dog"], []])
