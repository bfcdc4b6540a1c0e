"""Yes-or-no answers and POPE metrics against cases worked by hand."""

import pytest

from textanchor.evaluation.parsing import (
    equals_answer,
    names_answer,
    parse_choice,
    parse_choice_strictly,
    parse_yes_no,
    parse_yes_no_strictly,
    pope_metrics,
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
