"""Free answers, read strictly and leniently.

What a model thinks in tags of its own (`<think>`) is no part of its answer.
"""

import re
from collections.abc import Sequence

_STRICT = re.compile(r"\W*(yes|no)\W*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?\n]+(?:\s|$)")
_THOUGHT = r"(?:think|thinking|thought|reasoning)"
_THOUGHT_BEGIN = re.compile(rf"<{_THOUGHT}>|\u25c1think\u25b7", re.IGNORECASE)
_THOUGHT_END = re.compile(rf"</{_THOUGHT}>|\u25c1/think\u25b7", re.IGNORECASE)
_LIST_MARK = re.compile(r"(?:[-*\u2022>#]+|\(?(?:[0-9]{1,3}|[A-Za-z])[.):])\s+(?=\S)|\(?[0-9]{1,3}[.):](?=[^\W\d_])")
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")
_ANY_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_YES = {"yes", "yeah", "yep"}
_NO = {"no", "nope"}
_NEGATIONS = {"not", "no", "none", "never", "cannot", "neither", "nothing"}
_AFFIRMATIONS = re.compile(r"\b(there (?:is|are)|there's|it (?:is|does)|i (?:can )?see|correct|indeed)\b")


def without_thoughts(answer: str) -> str:
    """What follows the model's thinking; nothing where the thinking has no end."""
    closed = _THOUGHT_END.split(answer)[-1]  # templates that open the thinking leave its begin out of the answer
    return _THOUGHT_BEGIN.split(closed, maxsplit=1)[0].strip()


def parse_yes_no_strictly(answer: str) -> bool | None:
    """True for yes, False for no, where the answer is that one word in any case and punctuation; otherwise None."""
    match = _STRICT.fullmatch(without_thoughts(answer))
    return match[1].lower() == "yes" if match else None


def parse_yes_no_as_published(answer: str) -> bool:
    """The reading of POPE's own script, which published numbers rest on: True unless the text to the first period has
    the word No, no or not. So "None", "Nope", "isn't" and an empty answer are a yes, as is whatever cannot be read.

    Source: evaluate.py of github.com/AoiDragon/POPE.
    """
    return not {"No", "no", "not"} & set(answer.partition(".")[0].replace(",", "").split(" "))


def parse_yes_no(answer: str) -> bool | None:
    """True for yes, False for no, None where the first sentence of the answer says neither.

    The first word decides if it is yes or no; then a negation anywhere in the sentence means no ("there isn't any"),
    and a statement that something is there means yes.
    """
    sentence = _sentence(answer).replace("\u2019", "'").lower()
    words = _WORD.findall(sentence)
    if not words:
        return None
    if words[0] in _YES | _NO:
        return words[0] in _YES
    if any(word in _NEGATIONS or word.endswith("n't") for word in words):
        return False
    if _YES & set(words) or _AFFIRMATIONS.search(sentence):
        return True
    return None


def parse_choice_strictly(answer: str, choices: Sequence[str]) -> str | None:
    """The choice that the whole answer is, whatever its case and the punctuation around it; otherwise None."""
    plain = _plain(without_thoughts(answer))
    return next((choice for choice in choices if _plain(choice) == plain), None)


def parse_choice(answer: str, choices: Sequence[str]) -> str | None:
    """The one choice that the first sentence of the answer names as whole words; None where it names none or several.

    A choice inside a longer one that is named does not count ("dog" in "hot dog"). Of yes and no, `parse_yes_no`
    decides.
    """
    if {_plain(choice) for choice in choices} == {"yes", "no"}:
        said = parse_yes_no(answer)
        return None if said is None else next(c for c in choices if (_plain(c) == "yes") is said)
    sentence = f" {_plain(_sentence(answer, choices))} "
    named = []
    for choice in sorted(choices, key=len, reverse=True):
        phrase = f" {_plain(choice)} "
        if phrase in sentence:
            named.append(choice)
            sentence = sentence.replace(phrase, " | ")
    return named[0] if len(named) == 1 else None


def names_answer(answer: str, gold: str) -> bool:
    """Whether the first sentence of a free answer holds the gold answer as whole words."""
    return bool(_plain(gold)) and f" {_plain(gold)} " in f" {_plain(_sentence(answer, [gold]))} "


def equals_answer(answer: str, gold: str) -> bool:
    """Whether a free answer is the gold answer, whatever its case and punctuation."""
    return _plain(without_thoughts(answer)) == _plain(gold)


def words(text: str) -> list[str]:
    """Lower-case words: runs of letters and digits, with an apostrophe inside."""
    return _ANY_WORD.findall(text.replace("\u2019", "'").lower())


def _plain(text: str) -> str:
    return " ".join(words(text))


def _sentence(answer: str, choices: Sequence[str] = ()) -> str:
    """The first sentence, without the mark of a list ("1. Yes"), unless that mark is itself one of the choices."""
    text = without_thoughts(answer)
    mark = _LIST_MARK.match(text)
    if mark and _plain(mark[0]) not in map(_plain, choices):
        text = text[mark.end() :]
    return _SENTENCE_END.split(text, maxsplit=1)[0]
