"""`textanchor demo`: the main job, from nothing to a report."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class NewTask(StrEnum):
    """What the embedded model cannot do yet."""

    words = "words"
    digits = "digits"


def run(
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("textanchor-demo"),
    task: Annotated[NewTask, typer.Option(help="What the model is to learn.")] = NewTask.digits,
    seed: Annotated[int, typer.Option(help="Seed of data, order and initialisation.")] = 0,
    minutes: Annotated[float, typer.Option(help="What the report may take; sizes are cut to fit.")] = 8.0,
) -> None:
    """Teach the embedded model a new task, plainly and with its text anchor held, and report what each one kept."""
    from textanchor.demo.run import run_demo

    run_demo(out, task=task.value, seed=seed, minutes=minutes)
