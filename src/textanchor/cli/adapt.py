"""`textanchor adapt`: one adaptation run from a YAML file."""

import json
from pathlib import Path
from typing import Annotated

import typer


def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="What to adapt, on what, and how.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key of CONFIG.yaml; may be repeated."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Output folder; the same as --set output=DIR.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of this output.")] = False,
) -> None:
    """Adapt a model as CONFIG.yaml says; writes plain Transformers weights, run.json and audit.json."""
    from textanchor.config import load_config
    from textanchor.training.adapt import adapt
    from textanchor.training.config import AdaptConfig

    changes = list(overrides or [])
    if output is not None:
        changes.append(f"output={json.dumps(str(output))}")  # quoted, so that a folder called 2024 stays text
    result = adapt(load_config(AdaptConfig, config, changes), resume=resume)
    typer.echo(str(result))
