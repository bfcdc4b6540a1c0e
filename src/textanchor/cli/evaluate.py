"""`textanchor evaluate`: scores of a model on our suites."""

from pathlib import Path
from typing import Annotated

import typer


def run(
    model: Annotated[str, typer.Argument(help='"embedded", a folder in Hugging Face format, or a hub id.')],
    suite: Annotated[
        list[str],
        typer.Option(help='Suites or groups ("tasks", "all-offline"); may be repeated, or separated by commas.'),
    ],
    out: Annotated[Path, typer.Option(help="Output folder; a run that was interrupted is taken up from it.")],
    num_items: Annotated[int, typer.Option(min=1, help="Items for each suite.")] = 200,
    seed: Annotated[int, typer.Option(help="Which items are drawn.")] = 0,
    baseline: Annotated[
        Path | None, typer.Option(help="Output folder of an earlier evaluation, to show the change against.")
    ] = None,
) -> None:
    """Score MODEL on suites: accuracy and gold-answer cross-entropy on tasks, POPE, CHAIR, plain text."""
    from textanchor.evaluation.command import evaluate_named

    names = [name.strip() for text in suite for name in text.split(",")]
    result = evaluate_named(model, names, num_items=num_items, seed=seed, out=out, baseline=baseline)
    typer.echo(str(result))
