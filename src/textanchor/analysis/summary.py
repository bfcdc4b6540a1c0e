"""The claims of a geometry.json as lines of text."""

from typing import Any


def summary(numbers: dict[str, Any]) -> str:
    """One line for each claim, with where it holds; then what was not measured."""
    lines = []
    for found in numbers["verdicts"]:
        is_split = found["verdict"] == "undecided" and found["holds_at"]
        where = f" (holds at {', '.join(found['holds_at'])})" if is_split else ""
        lines.append(f"{found['claim']} {found['name']:<22}{found['verdict']}{where}")
    lines += [f"not measured: {entry['what']} ({entry['why']})" for entry in numbers["not_measured"]]
    return "\n".join(lines)
