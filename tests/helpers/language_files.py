"""Made-up rows in the format of local language files."""

import json
from pathlib import Path
from typing import Any

SUBJECTS = ("high_school_geography", "anatomy")


def choice_rows(num_rows: int, *, subject: bool = False) -> list[dict[str, Any]]:
    """Multiple-choice rows with words of different lengths."""
    things = ("a red ring", "two green squares in the corner", "nothing", "one yellow star and a white cross")
    rows = []
    for i in range(num_rows):
        row: dict[str, Any] = {
            "id": f"row-{i}",
            "task": "made_up",
            "question": f"What is in drawer {i} of the left cupboard?",
            "choices": [f"{things[(i + k) % 4]} {i * k}" for k in range(4)],
            "label": (i * 7) % 4,
            "split": "test",
        }
        rows.append(row | ({"subject": SUBJECTS[i % 3 % 2]} if subject else {}))
    return rows


def solution_rows(num_rows: int) -> list[dict[str, Any]]:
    """Rows with a worked solution."""
    return [
        {
            "id": f"sum-{i}",
            "question": f"Ann has {i} pens and buys {i + 2} more. How many has she?",
            "solution": f"She has {i} + {i + 2} = <<{i}+{i + 2}={2 * i + 2}>>{2 * i + 2} pens.\n#### {2 * i + 2}",
            "answer": str(2 * i + 2),
        }
        for i in range(num_rows)
    ]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """One row on each line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
