"""The constant guesser knows the gold answers' frequencies, and nothing of an item but its choices."""

import pytest

from textanchor.data.items import Item
from textanchor.evaluation.suites.closed import majority_guesses


def items(*answered: tuple[str, tuple[str, ...]]) -> list[Item]:
    return [
        Item(id=str(n), task="t", question="?", answer=answer, choices=choices)
        for n, (answer, choices) in enumerate(answered)
    ]


def accuracy(asked: list[Item]) -> float:
    guesses = majority_guesses(asked)
    return sum(guess == item.answer for guess, item in zip(guesses, asked, strict=True)) / len(asked)


def test_the_most_frequent_answer_of_a_vocabulary() -> None:
    asked = items(("no", ("yes", "no")), ("no", ("yes", "no")), ("yes", ("no", "yes")))
    assert majority_guesses(asked) == ["no", "no", "no"], "whatever the order of the choices"


def test_kinds_of_questions_are_guessed_apart() -> None:
    colors = ("red", "green", "blue")
    asked = items(*[("yes", ("yes", "no"))] * 3, *[("green", colors)] * 2, ("red", colors))
    assert majority_guesses(asked) == ["yes"] * 3 + ["green"] * 3
    assert accuracy(asked) == pytest.approx(5 / 6)


def test_choices_that_are_new_each_time_are_chance() -> None:
    asked = items(*((f"{'ab'[n % 2]}{n}", (f"a{n}", f"b{n}")) for n in range(40)))
    assert accuracy(asked) == pytest.approx(0.5), "not the one half of the answers that each item alone would give"


def test_open_questions_have_no_guess() -> None:
    assert majority_guesses(items(("a cat", ()))) == [""]
