"""The scores of single items in a record: as one string for each suite and metric, so that a record stays small."""

from typing import Any

DIGITS = 4


def pack(condition: dict[str, Any]) -> dict[str, Any]:
    """A condition with the values of all items of a suite as one string."""
    if "rows" not in condition:
        return condition
    rows = {
        suite: {metric: " ".join(f"{round(value, DIGITS):g}" for value in values) for metric, values in metrics.items()}
        for suite, metrics in condition["rows"].items()
    }
    return {**condition, "rows": rows}


def unpack(rows: dict[str, dict[str, str]]) -> dict[str, dict[str, list[float]]]:
    """The values again, in the order of the suite's items."""
    return {
        suite: {metric: [float(value) for value in values.split()] for metric, values in metrics.items()}
        for suite, metrics in rows.items()
    }
