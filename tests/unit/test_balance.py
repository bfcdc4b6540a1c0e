"""Every kind of question and every answer equally often, whatever the stream holds more of."""

from collections import Counter
from itertools import islice

from textanchor.data.balance import balanced
from textanchor.data.items import Item


def item(number: int, answer: str, choices: tuple[str, ...] = ("yes", "no")) -> Item:
    return Item(id=str(number), task="t", question="?", answer=answer, choices=choices)


def lopsided() -> list[Item]:
    """Nine of ten say yes; every fifth asks for one of three colors, always red but for a few."""
    colors = ("red", "green", "blue")
    return [
        item(n, colors[n // 15 % 3] if n % 15 == 0 else "red", colors)
        if n % 5 == 0
        else item(n, "no" if n % 10 == 1 else "yes")
        for n in range(400)
    ]


def test_any_beginning_is_balanced() -> None:
    for length in (8, 20, 40):
        items = list(islice(balanced(lopsided()), length))
        kinds = Counter(len(i.choices) for i in items)
        assert abs(kinds[2] - kinds[3]) <= 1
        answers = Counter(i.answer for i in items if len(i.choices) == 2)
        assert abs(answers["yes"] - answers["no"]) <= 1
        colors = Counter(i.answer for i in items if len(i.choices) == 3)
        assert max(colors.values()) - min(colors[name] for name in ("red", "green", "blue")) <= 1


def test_a_longer_beginning_starts_with_the_shorter() -> None:
    long, short = (list(islice(balanced(lopsided()), n)) for n in (40, 15))
    assert long[:15] == short


def test_nothing_is_lost_or_doubled() -> None:
    assert sorted(i.id for i in balanced(lopsided())) == sorted(i.id for i in lopsided())


def test_open_questions_keep_their_order() -> None:
    items = [item(n, f"answer {n}", ()) for n in range(9)]
    assert list(balanced(items)) == items


def test_choices_in_a_new_order_each_time_are_balanced_by_place() -> None:
    items = [item(n, f"b{n}" if n % 4 else f"a{n}", (f"a{n}", f"b{n}")) for n in range(80)]
    first = list(islice(balanced(items), 20))
    assert Counter(i.choices.index(i.answer) for i in first) == {0: 10, 1: 10}
