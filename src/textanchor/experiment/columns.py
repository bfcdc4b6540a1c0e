"""Scores of many items in little space: one string for each column, so that a record of a run can be committed."""

from collections.abc import Iterable, Sequence

DECIMALS = 3
"""Of nats: a thousandth of one is far below what any comparison resolves."""


def pack_numbers(values: Iterable[float]) -> str:
    """Numbers with three decimals, apart by spaces."""
    return " ".join(f"{value:.{DECIMALS}f}" for value in values)


def unpack_numbers(text: str) -> list[float]:
    """What `pack_numbers` packed, but for the rounding."""
    return [float(number) for number in text.split()]


def pack_flags(values: Iterable[float]) -> str:
    """Values that are 0 or 1 as one digit each."""
    return "".join("1" if value else "0" for value in values)


def unpack_flags(text: str) -> list[float]:
    """What `pack_flags` packed."""
    return [float(flag) for flag in text]


def part(values: Sequence[float], num_validation: int, split: str) -> list[float]:
    """The values of one split; validation items stand first in every column."""
    return list(values[:num_validation] if split == "validation" else values[num_validation:])
