"""How numbers are written in the report: one place, so that a page and a test never round differently."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

MINUS, TIMES, THIN_SPACE, NO_BREAK_SPACE, EN_DASH = "\u2212", "\u00d7", "\u2009", "\u00a0", "\u2013"
ABSENT = EN_DASH
SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


@dataclass(frozen=True)
class Value:
    """An estimate with the interval that was measured for it, if one was."""

    estimate: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def read(cls, raw: Any) -> "Value | None":
        """From JSON: a number, an object with estimate, low and high, or null."""
        if raw is None:
            return None
        return cls(raw["estimate"], raw["low"], raw["high"]) if isinstance(raw, dict) else cls(float(raw))


@dataclass(frozen=True)
class Unit:
    """How a measure is written: its numbers, its changes, and which way is better."""

    kind: str
    """"share" (written in per cent), "nats" or "plain"."""
    higher_is_better: bool = True

    def number(self, x: float) -> str:
        """The number with as many digits as can matter."""
        if self.kind == "share":
            return percent(x)
        return fixed(x, 3 if self.kind == "nats" else 2)

    def change(self, x: float) -> str:
        """A signed difference; of shares in percentage points."""
        if self.kind == "share":
            return signed(100 * x, 1)
        return signed(x, 3 if self.kind == "nats" else 2)

    def interval(self, value: Value) -> str:
        """Low and high end as one string, empty where none was measured."""
        if value.low is None or value.high is None:
            return ""
        if self.kind == "share":
            return f"{fixed(100 * value.low, 1)}{EN_DASH}{percent(value.high)}"
        return f"{self.number(value.low)}{EN_DASH}{self.number(value.high)}"


SHARE = Unit("share")
SHARE_LESS_IS_BETTER = Unit("share", higher_is_better=False)
NATS = Unit("nats", higher_is_better=False)
PLAIN = Unit("plain")


def fixed(x: float, digits: int) -> str:
    """`digits` decimals, a real minus sign, and never "-0.0"."""
    text = f"{abs(x):.{digits}f}"
    return MINUS + text if x < 0 and float(text) else text


def signed(x: float, digits: int) -> str:
    """As `fixed`, with a plus sign on what is above zero after rounding."""
    text = fixed(x, digits)
    return text if text.startswith(MINUS) or not float(text) else f"+{text}"


def percent(x: float) -> str:
    """A share as per cent with one decimal."""
    return f"{fixed(100 * x, 1)}%"


def compact(x: float) -> str:
    """Any number in few characters: 3 significant digits, or 2 and a power of ten."""
    mantissa, exponent = f"{x:.1e}".split("e")
    if x == 0 or -3 <= int(exponent) < 3:
        text = f"{x:.3g}"
    elif 3 <= int(exponent) < 6:
        text = f"{x:,.0f}"
    else:
        text = f"{mantissa}{TIMES}10{str(int(exponent)).translate(SUPERSCRIPTS)}"
    return text.replace("-", MINUS)


def count(n: int) -> str:
    """A whole number, millions and billions shortened: 134.5 M."""
    for size, letter in ((10**9, "B"), (10**6, "M")):
        if n >= size:
            return f"{n / size:.1f}{THIN_SPACE}{letter}"
    return f"{n:,}"


def moment(iso: str) -> str:
    """An ISO 8601 date and time to the minute; as it stands where it is none."""
    try:
        when = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    zone = when.tzname()
    return f"{when:%Y-%m-%d %H:%M}" + (f" {zone}" if zone else "")


def duration(seconds: float) -> str:
    """Seconds below two minutes, else minutes and seconds."""
    if seconds < 120:
        return f"{seconds:.0f}{THIN_SPACE}s"
    return f"{int(seconds // 60)}{THIN_SPACE}min {int(seconds % 60)}{THIN_SPACE}s"
