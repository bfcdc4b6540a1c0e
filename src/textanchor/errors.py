"""The errors that textanchor raises on purpose: one paragraph naming the place, what was expected and the way out."""

from reprlib import Repr
from typing import Any

MOST_SHOWN = 80
MOST_DIGITS = 300
_SHORT = Repr()
_SHORT.maxlevel = _SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = 10
_SHORT.maxstring = _SHORT.maxlong = _SHORT.maxother = 2 * MOST_SHOWN


def shown(value: Any) -> str:
    """The value as an error shows it, cut to 80 characters."""
    if isinstance(value, int) and abs(value) >= 10**MOST_DIGITS:
        return f"a whole number of more than {MOST_DIGITS} digits"  # Python writes none of several thousand
    text = _SHORT.repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."


class TextanchorError(Exception):
    """A mistake the user can mend; the command line prints it without a traceback and ends with exit code 2."""


class ConfigError(TextanchorError):
    """A configuration file or object has an unknown key, a wrong type or a value out of range."""


class OutputError(TextanchorError):
    """An output cannot be written: its place is in use or not free, or the system refuses it."""


class DataError(TextanchorError):
    """A data file, an image or a record in it cannot be used."""


class ModelError(TextanchorError):
    """A checkpoint or model is missing, damaged, unsupported or has no part where one was expected."""


class HoldError(TextanchorError):
    """A hold that was asked for is not legal for that tensor, or its promise was not kept."""


class FetchError(TextanchorError):
    """A file that textanchor takes from a package registry is out of reach or has the wrong checksum."""
