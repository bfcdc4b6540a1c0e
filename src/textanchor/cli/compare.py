"""`textanchor compare`: a matrix of adaptation runs, and what they say together."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Stale(StrEnum):
    """What becomes of records that other code or another configuration made."""

    refuse = "refuse"
    rerun = "rerun"


def run(
    matrix: Annotated[
        Path, typer.Argument(metavar="MATRIX.yaml", help="Defaults, tasks, arms, seeds and what is scored.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the records; a comparison that was cut short goes on there.")],
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Only cells of this arm, strength, rate, task or seed (a,b or a*); may be repeated.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all cells and list them; run nothing.")] = False,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="Begin no run that is not expected to end within so many minutes.")
    ] = None,
    stale: Annotated[
        Stale, typer.Option(help="Records of other code or configuration: refuse to mix them, or run them again.")
    ] = Stale.refuse,
) -> None:
    """Tune a model in every way that MATRIX.yaml names, score every run on the way, and compare at equal learning."""
    from textanchor.experiment.command import compare

    outcome = compare(
        matrix, out, only=only or (), dry_run=dry_run, max_minutes=max_minutes, rerun_stale=stale is Stale.rerun
    )
    typer.echo(str(outcome))
    if outcome.num_failed and not dry_run:
        raise typer.Exit(1)
