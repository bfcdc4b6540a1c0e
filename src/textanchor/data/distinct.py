"""Items of a file, each with an id of its own, because two models' scores are paired by it."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from textanchor.data.items import Item
from textanchor.errors import DataError


class DistinctItems:
    """What the rows of a file give; a row with the id of another one gets `#2` behind it, then `#3`, in file order.

    LLaVA's own files give one id to several conversations about an image.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, Item] = {}

    @property
    def all(self) -> list[Item]:
        """The items in their order."""
        return list(self._by_id.values())

    def add(self, place: str, items: Sequence[Item]) -> None:
        """Add the items of one row; DataError, naming the place, where they were all there before."""
        for number in count(1):
            named = items if number == 1 else [replace(item, id=f"{item.id}#{number}") for item in items]
            before = [self._by_id[item.id] for item in named if item.id in self._by_id]
            if not before:
                self._by_id.update((item.id, item) for item in named)
                return
            if before == named:
                raise DataError(f"{place}: the row with the id {items[0].id!r} has been given above; remove one")
