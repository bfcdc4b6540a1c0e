"""Items in an order in which every kind of question and every answer of a kind comes equally often."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator

from textanchor.data.items import Item

Cell = tuple[int, int]
"""Number of choices, which is the kind of question, and the place of the gold answer among them."""


def balanced(items: Iterable[Item]) -> Iterator[Item]:
    """The items, each of the rarest kind and, within it, of the rarest gold answer that came so far.

    At any length the answers of a kind differ by one at most, as long as there are items left to choose from. A kind
    is the number of choices; open questions are one kind with one cell. What has to wait is kept in memory.
    """
    waiting: defaultdict[Cell, deque[Item]] = defaultdict(deque)
    given: Counter[Cell] = Counter()
    kinds: Counter[int] = Counter()

    def next_cell() -> Cell:
        kind = min(kinds, key=lambda kind: kinds[kind])
        return min(((kind, place) for place in range(max(kind, 1))), key=lambda cell: given[cell])

    for item in items:
        kind = len(item.choices)
        kinds.setdefault(kind, 0)
        waiting[kind, item.choices.index(item.answer) if item.choices else 0].append(item)
        while waiting[cell := next_cell()]:
            given[cell] += 1
            kinds[cell[0]] += 1
            yield waiting[cell].popleft()
    while left := [cell for cell, cell_items in waiting.items() if cell_items]:
        cell = min(left, key=lambda cell: (kinds[cell[0]], given[cell], cell))
        given[cell] += 1
        kinds[cell[0]] += 1
        yield waiting[cell].popleft()
