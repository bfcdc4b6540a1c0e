"""Ranges of the numbers that people set, with one wording for what lies outside."""

from textanchor.errors import ConfigError

LARGEST_SEED = 2**32 - 1
"""As in NumPy and the Trainer."""
MOST_STEPS = 10_000_000
"""Optimizer steps of a run: months of them, so that a larger number is a slip and not a wish."""
MOST_EPOCHS = 100_000
MOST_DRAWN = 20_000
"""Items that are drawn at once, each with its image in memory: 3 GB, and half a minute without a word."""


def require_range(
    name: str,
    value: float | None,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    why: str = "",
) -> None:
    """ConfigError naming the setting where its value is below `least`, above `most`, or not above `above`.

    None, a setting that was left out, passes; nan does not. `why` is said at the end: the reason, or the way out.
    """
    if value is None:
        return
    if above is not None and not value > above:
        wanted = f"greater than {above:,}"
    elif least is not None and not value >= least:
        wanted = f"at least {least:,}"
    elif most is not None and not value <= most:
        wanted = f"at most {most:,}"
    else:
        return
    raise ConfigError(f"{name} must be {wanted}, found {value:,}" + (f"; {why}" if why else ""))


def require_seed(value: int, name: str = "seed") -> None:
    """ConfigError where the value is no seed that NumPy and the Trainer take."""
    require_range(name, value, least=0, most=LARGEST_SEED)
