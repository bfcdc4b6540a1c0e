"""Axes: what range they show, where their ticks are, how these are written."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from textanchor.report.numbers import TIMES, compact, fixed

LEAST = 1e-250
"""Smaller values and differences are drawn as if they were zero: their products and powers of ten would be."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of a chart, as asked for; `fit` turns it into a range."""

    label: str
    kind: str = "linear"
    """"linear", "log" (powers of ten; values must be positive) or "share" (linear, ticks in per cent)."""
    include: tuple[float, ...] = ()
    """Values that must be in the range whatever the data."""
    bounds: tuple[float, float] | None = None
    """The exact range, instead of one that fits the data."""


@dataclass(frozen=True)
class Scale:
    """A fitted axis: positions are fractions of its length, 0 at the low end."""

    axis: Axis
    low: float
    high: float

    def position(self, x: float) -> float:
        """Where `x` lies, clipped to the axis."""
        low, high, at = (math.log10(max(v, LEAST)) if self.axis.kind == "log" else v for v in (self.low, self.high, x))
        return min(max((at - low) / (high - low), 0.0), 1.0)

    def ticks(self, about: int = 5) -> list[tuple[float, str]]:
        """Round values inside the range with their labels."""
        if self.axis.kind == "log":
            return [(x, _power(x)) for x in _log_ticks(self.low, self.high)]
        values = _linear_ticks(self.low, self.high, about)
        step = values[1] - values[0] if len(values) > 1 else 1.0
        if self.axis.kind == "share":
            return [(x, f"{fixed(100 * x, _decimals(100 * step))}%") for x in values]
        return [(x, f"{x:,.0f}" if abs(x) >= 1000 else fixed(x, _decimals(step))) for x in values]


def fit(axis: Axis, data: Iterable[float]) -> Scale:
    """The scale that shows all of `data` with a little air, and `axis.include`."""
    if axis.bounds is not None:
        return Scale(axis, *axis.bounds)
    values = [*data, *axis.include]
    if axis.kind == "log":
        low, high = max(min(values), LEAST), max(*values, LEAST)
        if high < 10 * low:  # at least one power of ten, so that there are ticks
            middle = math.sqrt(low) * math.sqrt(high)
            low, high = middle / math.sqrt(10), middle * math.sqrt(10)
        return Scale(axis, low, high)
    low, high = min(values), max(values)
    air = next((a for a in (0.09 * (high - low), 0.1 * abs(high)) if a > LEAST), 1.0)
    firm = axis.include if low < high else ()  # one value alone still needs a range
    low, high = (end if end in firm else end + sign * air for end, sign in ((low, -1), (high, 1)))
    if axis.kind == "share":
        low, high = max(low, 0.0), min(high, 1.0)
    return Scale(axis, low, high)


def _linear_ticks(low: float, high: float, about: int) -> list[float]:
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 2.5, 5, 10), key=lambda m: abs(math.log(m * power / rough)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    multiples = (1,) if last - first > 2 else (1, 2, 5)
    stride = max(1, (last - first) // 6)
    values = [m * 10.0**e for e in range(first, last + 1, stride) for m in multiples]
    return [x for x in values if low * (1 - 1e-9) <= x <= high * (1 + 1e-9)]


def _power(x: float) -> str:
    """A tick of a log axis: of a power of ten that is written as one, only the power, because labels are narrow."""
    return compact(x).removeprefix(f"1.0{TIMES}")


def _decimals(step: float) -> int:
    """Decimals needed to tell ticks apart; 2.5 needs one, 0.25 two."""
    for digits in range(8):
        if abs(step * 10**digits - round(step * 10**digits)) < 1e-6:
            return digits
    return 8
