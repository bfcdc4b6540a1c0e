"""`textanchor parts`: where the vision tower, the projector and the language model of a checkpoint are."""

from pathlib import Path
from typing import Annotated

import typer


def run(
    model: Annotated[str, typer.Argument(help='"embedded", a folder in Hugging Face format, or a hub id.')],
    vision_tower: Annotated[str | None, typer.Option(help="Module path of the vision tower, if not found.")] = None,
    projector: Annotated[
        list[str] | None, typer.Option(help="Module path of the projector, if not found; may be repeated.")
    ] = None,
    language_model: Annotated[str | None, typer.Option(help="Module path of the language model, if not found.")] = None,
    save: Annotated[Path | None, typer.Option(help="Also write the paths to this JSON file.")] = None,
) -> None:
    """Show the vision tower, projector, language model and input embedding of MODEL, and how each was found."""
    from textanchor.vlm.loading import load_vlm
    from textanchor.vlm.parts import find_parts

    loaded, _ = load_vlm(model)
    found = find_parts(loaded, vision_tower=vision_tower, projector=projector or None, language_model=language_model)
    typer.echo(str(found))
    if save is not None:
        found.save(save)
