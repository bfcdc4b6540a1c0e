"""What a kind of faults is.

A kind is a function of the verb, a copy of the sound study and a seed's generator: it puts a fault into the copy, and
gives the command to run there and the name (of a file, a key or an option) that the error must tell.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """A command that must be refused."""

    arguments: list[str]
    named: str
    """What the error must name."""
    folder: str = "."
    """Where it runs, from the study's folder."""
    is_verdict: bool = False
    """Whether what is asked for is a verdict: `diff --strict` may also find the fault, and end with 3."""
    variables: tuple[tuple[str, str], ...] = ()
    """Of the environment."""


Kind = Callable[[str, Path, random.Random], Fault]
KINDS: dict[str, Kind] = {}


def kind(function: Kind) -> Kind:
    KINDS[function.__name__] = function
    return function
