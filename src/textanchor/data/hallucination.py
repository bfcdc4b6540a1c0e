"""What object hallucination is measured with: yes-or-no questions from object lists, and object mentions in captions.

POPE: "Evaluating Object Hallucination in Large Vision-Language Models", arXiv 2305.10355.
CHAIR: "Object Hallucination in Image Captioning", arXiv 1809.02156.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from pathlib import Path
from typing import Literal

import numpy as np

from textanchor.errors import DataError
from textanchor.files import lines_of, read_text

_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
COMPOUNDS: dict[str, str | None] = {
    **{f"{age} {animal}": animal for animal in _ANIMALS for age in ("baby", "adult")},
    "passenger jet": "jet",
    "passenger train": "train",
    "bow tie": "tie",
    "toilet seat": "toilet",
    "home plate": None,
    "train track": None,
}
"""Phrase -> the word that names its object, or None where it names none of the things that its words name alone.

A baby elephant is no person, although "baby" is one in the COCO list (CHAIR's own script has these rules).
"""
NAMELESS_BESIDE = {"seat": "toilet"}
"""Word -> what it is a part of where a text has both ("the seat of the toilet"), so that it names nothing there."""

Strategy = Literal["random", "popular", "adversarial"]
STRATEGIES: tuple[Strategy, ...] = ("random", "popular", "adversarial")

_WORD = re.compile(r"[^\W_]+")
_IRREGULAR_PLURALS = {
    "child": "children",
    "foot": "feet",
    "goose": "geese",
    "man": "men",
    "mouse": "mice",
    "ox": "oxen",
    "person": "people",
    "tooth": "teeth",
}


@dataclass(frozen=True, kw_only=True)
class ObjectQuestion:
    """Is the object in the image?"""

    image_id: str
    object: str
    answer: Literal["yes", "no"]


def ask_about_objects(
    objects_by_image: Mapping[str, Sequence[str]],
    strategy: Strategy,
    *,
    num_pairs: int = 3,
    seed: int = 0,
    vocabulary: Iterable[str] | None = None,
    affinity: Callable[[str, str], float] | None = None,
) -> list[ObjectQuestion]:
    """Up to `num_pairs` questions with answer yes and as many with answer no for each image (POPE, section 5).

    The absent objects are drawn at random, or are those that are in most images (popular), or those that are most often
    together with the present ones (adversarial; `affinity(absent, present)` takes the place of this co-occurrence).
    All strategies ask about the same present objects. The vocabulary is what occurs in any image, unless given.
    """
    names = sorted(set(vocabulary) if vocabulary is not None else {n for o in objects_by_image.values() for n in o})
    frequency = Counter(name for objects in objects_by_image.values() for name in set(objects))
    affinity = affinity if affinity is not None else co_occurrence(objects_by_image.values())
    questions = []
    for index, (image_id, objects) in enumerate(objects_by_image.items()):
        unknown = set(objects) - set(names)
        if unknown:
            raise DataError(
                f"image {image_id!r}: object {min(unknown)!r} is not in the vocabulary given for the questions"
            )
        rng = np.random.default_rng([seed, index])
        present = [str(name) for name in rng.permutation(sorted(set(objects)))]
        absent = [str(name) for name in rng.permutation([name for name in names if name not in present])]
        if strategy == "popular":
            absent.sort(key=lambda name: -frequency[name])
        elif strategy == "adversarial":
            absent.sort(key=lambda name, present=present: (-sum(affinity(name, p) for p in present), -frequency[name]))
        pairs = list(zip(present, absent, strict=False))[:num_pairs]
        questions += [ObjectQuestion(image_id=image_id, object=yes, answer="yes") for yes, _ in pairs]
        questions += [ObjectQuestion(image_id=image_id, object=no, answer="no") for _, no in pairs]
    return questions


def co_occurrence(object_lists: Iterable[Sequence[str]]) -> Callable[[str, str], float]:
    """Number of images in which two objects are together."""
    together = Counter(pair for objects in object_lists for pair in permutations(sorted(set(objects)), 2))
    return lambda absent, present: together[absent, present]


def shared_words(absent: str, present: str) -> float:
    """Number of words that two names share: the affinity of drawn objects, whose co-occurrence is chance."""
    return len(set(absent.split()) & set(present.split()))


@dataclass(frozen=True)
class ObjectVocabulary:
    """Objects by name, each with its synonyms; plural forms need not be listed, and `COMPOUNDS` are known."""

    synonyms: Mapping[str, Sequence[str]]

    def plain(self) -> dict[str, list[str]]:
        """The synonyms as lists, for a hash or a file."""
        return {name: list(phrases) for name, phrases in self.synonyms.items()}

    @classmethod
    def load(cls, path: Path | str) -> "ObjectVocabulary":
        """One object per line: its name, then its synonyms, between commas (the format of CHAIR's COCO list)."""
        path = Path(path)
        synonyms: dict[str, tuple[str, ...]] = {}
        if not path.is_file():
            raise DataError(f"{path}: no such vocabulary file; it holds one object per line, `name, synonym, synonym`")
        for number, line in enumerate(lines_of(read_text(path)), start=1):
            names = [name for part in line.split(",") if (name := " ".join(_words(part)))]
            if names and names[0] in synonyms:
                raise DataError(f"{path}, line {number}: the object {names[0]!r} has a line above; join the two")
            if names:
                synonyms[names[0]] = tuple(names[1:])
        return cls(synonyms)

    @cached_property
    def forms(self) -> dict[tuple[str, ...], str | None]:
        """Every phrase that names an object, as words, with the object, or None for compounds that name none.

        Listed phrases go before compounds, and those before derived plurals.
        """
        listed: dict[tuple[str, ...], str | None] = {}
        for name, synonyms in self.synonyms.items():
            for phrase in (name, *synonyms):
                words = tuple(_words(phrase))
                if not words:
                    raise DataError(f"the phrase {phrase!r} has no letter, so no text can name it; remove it")
                if listed.setdefault(words, name) != name:
                    raise DataError(f"the phrase {phrase!r} names both {listed[words]!r} and {name!r}; remove one")
        compounds = {tuple(phrase.split()): listed.get((head or "",)) for phrase, head in COMPOUNDS.items()}
        forms = compounds | listed
        plurals = {(*words[:-1], plural): name for words, name in forms.items() for plural in plural_forms(words[-1])}
        return plurals | forms

    def mentions(self, text: str) -> list[str]:
        """Objects in the order in which the text names them, with repeats; of phrases at one place the longest counts.

        A mention is a mention also under negation ("no dog") and in a possessive ("the dog's tail"), as in CHAIR.
        """
        words, forms = _words(text), self.forms
        nameless = {
            form for part, whole in NAMELESS_BESIDE.items() if _forms(whole) & set(words) for form in _forms(part)
        }
        longest = max((len(phrase) for phrase in forms), default=0)
        found, i = [], 0
        while i < len(words):
            length = next((n for n in range(longest, 0, -1) if tuple(words[i : i + n]) in forms), None)
            if length is not None and not (length == 1 and words[i] in nameless):
                found.append(forms[tuple(words[i : i + length])])
            i += length or 1
        return [name for name in found if name is not None]

    def named(self, phrase: str) -> str | None:
        """The object of which a phrase, as in a data file, is a listed or derived form; None where there is none."""
        return self.forms.get(tuple(_words(phrase)))


def plural_forms(noun: str) -> set[str]:
    """English plurals that the noun may have; a wrong one does no harm, as nobody writes it."""
    forms = {f"{noun}s"}
    for singular, plural in _IRREGULAR_PLURALS.items():  # of compounds too: grandchildren, policemen
        if noun.endswith(singular):
            forms.add(noun.removesuffix(singular) + plural)
    if noun.endswith(("s", "x", "z", "ch", "sh", "o")):
        forms.add(f"{noun}es")
    if re.search(r"[^aeiou]y$", noun):
        forms.add(f"{noun[:-1]}ies")
    if noun.endswith("fe"):
        forms.add(f"{noun[:-2]}ves")
    elif noun.endswith("f"):
        forms.add(f"{noun[:-1]}ves")
    return forms


def has_word(text: str) -> bool:
    """Whether the text has a letter or a digit, so that it can name something."""
    return _WORD.search(text) is not None


def _forms(noun: str) -> set[str]:
    return {noun, *plural_forms(noun)}


def _words(text: str) -> list[str]:
    """Lower-case runs of letters and digits; an apostrophe ends a word, so that possessives name what they are of."""
    return _WORD.findall(text.lower())
