"""Yes-or-no answers and POPE metrics against cases worked by hand."""

import pytest

from textanchor.evaluation.results.pope import pope_metrics
from textanchor.evaluation.scoring.parsing import (
    equals_answer,
    names_answer,
    parse_choice,
    parse_choice_strictly,
    parse_yes_no,
    parse_yes_no_as_published,
    parse_yes_no_strictly,
)

STORY = "The picture was taken on a quiet morning and has many colors in it " * 22

# answer, strictly, leniently
ANSWERS = [
    ("yes", True, True),
    ("Yes.", True, True),
    (" NO! ", False, False),
    ("No", False, False),
    ("yes, there is", None, True),
    ("No, there is a dog but no cat.", None, False),
    ("there isn't any", None, False),
    ("There isn\u2019t any.", None, False),
    ("There is a red circle in the image.", None, True),
    ("There is no red circle.", None, False),
    ("I can see a dog. There is no cat.", None, True),
    ("It is not.", None, False),
    ("The answer is yes", None, True),
    ("None that I can see", None, False),
    ("Nope", None, False),
    ("", None, None),
    ("...", None, None),
    ("A dog.", None, None),
    ("Yesterday it was", None, None),
    ("Norway", None, None),
    ("A notebook lies on the table", None, None),
    (STORY, None, None),
    (f"Yes, {STORY}", None, True),
    ("yes\nno", None, True),
    ("1. Yes", None, True),
    ("1) No, there is none.", None, False),
    ("1.Yes", None, True),
    ("(a) no", None, False),
    ("A. Yes", None, True),
    ("- **No**", False, False),
    ("2. There isn't one. 3. Yes", None, False),
    ("1. A dog", None, None),
    ("<think>No dog? But there is.</think>Yes", True, True),
    ("<think>\nyes, surely\n</think>\n\nNo.", False, False),
    ("It may be a dog, so yes.</think> No", False, False),
    ("<think>yes", None, None),
    ("<thinking>Is it?</thinking> 1. There is no dog.", None, False),
    ("\u25c1think\u25b7no\u25c1/think\u25b7yes", True, True),
]


@pytest.mark.parametrize(("answer", "strict", "lenient"), ANSWERS)
def test_answers_are_read(answer: str, strict: bool | None, lenient: bool | None) -> None:
    assert parse_yes_no_strictly(answer) is strict
    assert parse_yes_no(answer) is lenient


def test_the_long_answer_is_long() -> None:
    assert len(STORY.split()) > 300


ANIMALS = ("dog", "hot dog", "top left", "cat")

# answer, strictly, leniently
CHOICES = [
    ("Dog.", "dog", "dog"),
    ("hot dog", "hot dog", "hot dog"),
    ("It is a hot dog!", None, "hot dog"),
    ("A hot dog and a dog.", None, None),
    ("the TOP-LEFT", None, "top left"),
    ("A cat. Not a dog.", None, "cat"),
    ("dogs", None, None),
    ("a bird", None, None),
    ("", None, None),
    (STORY, None, None),
]


@pytest.mark.parametrize(("answer", "strict", "lenient"), CHOICES)
def test_choices_are_read(answer: str, strict: str | None, lenient: str | None) -> None:
    assert parse_choice_strictly(answer, ANIMALS) == strict
    assert parse_choice(answer, ANIMALS) == lenient


@pytest.mark.parametrize(
    ("answer", "choices", "strict", "lenient"),
    [
        ("1. dog", ANIMALS, None, "dog"),
        ("B) A cat, I think", ANIMALS, None, "cat"),
        ("<think>a dog?</think>cat", ANIMALS, "cat", "cat"),
        ("<think>a dog", ANIMALS, None, None),
        ("2. There are two.", ("1", "2"), None, "2"),
        ("2.", ("1", "2"), "2", "2"),
        ("1. one", ("one", "two"), None, "one"),
        ("B. The second", ("A", "B"), None, "B"),
        ("1. 2 dogs", ("1 dog", "2 dogs"), None, "2 dogs"),
    ],
)
def test_numbered_and_thought_answers(answer: str, choices: tuple[str, ...], strict: str | None, lenient: str) -> None:
    assert parse_choice_strictly(answer, choices) == strict
    assert parse_choice(answer, choices) == lenient


def test_yes_and_no_as_choices_are_read_as_such() -> None:
    assert parse_choice("there isn't any", ("yes", "no")) == "no"
    assert parse_choice("Yes, but no cat.", ("No", "Yes")) == "Yes"
    assert parse_choice("A dog.", ("yes", "no")) is None


def test_open_answers() -> None:
    assert equals_answer("  A RED ring! ", "a red ring")
    assert not equals_answer("a red ring there", "a red ring")
    assert names_answer("I see a red ring. And more.", "red ring")
    assert not names_answer("I see a reddish ring.", "red")
    assert not names_answer("Nothing. Then a dog.", "dog"), "the first sentence counts"
    assert not names_answer("anything", "?")
    assert names_answer("1. A dog. 2. A cat.", "dog") and not names_answer("1. A dog. 2. A cat.", "cat")
    assert names_answer("3. I see three.", "3") and not names_answer("2. I see three.", "2 dogs")
    assert equals_answer("<think>a cat?</think> A dog.", "a dog") and not equals_answer("1. A dog", "a dog")


# answer, as POPE's own script reads it (worked by hand from its rule), as we read it
PUBLISHED = [
    ("No, there is no dog.", False, False),
    ("Yes.", True, True),
    ("There is not a dog in it.", False, False),
    ("NO", True, False),  # it knows two spellings
    ("no!", True, False),  # and no punctuation but commas and the first period
    ("None.", True, False),
    ("There isn't a dog.", True, False),
    ("A dog.", True, None),
    ("", True, None),
    ("Yes, and not a small one.", False, True),
    ("It is there, no doubt.", False, False),
    ("1. No", True, False),  # the sentence ends behind the number
    ("I see a dog.\nNo cat.", True, True),
]


@pytest.mark.parametrize(("answer", "published", "ours"), PUBLISHED)
def test_the_published_reading(answer: str, published: bool, ours: bool | None) -> None:
    assert parse_yes_no_as_published(answer) is published
    assert parse_yes_no(answer) is ours


def test_metrics_of_the_predictions() -> None:
    # six questions: hit, miss, unread on a gold yes; false alarm, correct rejection, unread on a gold no
    metrics = pope_metrics([True, False, None, True, False, None], [True, True, True, False, False, False])
    assert metrics.accuracy == pytest.approx(2 / 6)
    assert metrics.precision == pytest.approx(1 / 2)
    assert metrics.recall == pytest.approx(1 / 3)
    assert metrics.f1 == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))
    assert metrics.yes_ratio == pytest.approx(2 / 6)
    assert metrics.unparsed == pytest.approx(2 / 6)
    assert metrics.num_items == 6


def test_yes_ratio_is_not_that_of_the_gold_answers() -> None:
    assert pope_metrics([True] * 4, [True, True, False, False]).yes_ratio == 1.0


def test_a_model_that_always_says_no() -> None:
    metrics = pope_metrics([False, False], [True, False])
    assert (metrics.accuracy, metrics.precision, metrics.recall, metrics.f1) == (0.5, None, 0.0, 0.0)


def test_pope_without_a_gold_yes_is_refused() -> None:
    with pytest.raises(ValueError, match="gold answer is yes"):
        pope_metrics([False], [False])
