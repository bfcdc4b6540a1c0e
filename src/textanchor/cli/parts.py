"""`textanchor parts`: where the vision tower, the projector and the language model of a checkpoint are."""

from pathlib import Path
from typing import Annotated

import typer

from textanchor.cli.part_options import LanguageModel, Projector, VisionTower


def run(
    model: Annotated[str, typer.Argument(help='"embedded", a folder in Hugging Face format, or a hub id.')],
    vision_tower: VisionTower = None,
    projector: Projector = None,
    language_model: LanguageModel = None,
    save: Annotated[Path | None, typer.Option(help="Also write the paths to this JSON file.")] = None,
) -> None:
    """Show the vision tower, projector, language model and input embedding of MODEL, and how each was found."""
    from contextlib import nullcontext

    from textanchor.outputs import claimed
    from textanchor.vlm.loading import empty_vlm
    from textanchor.vlm.parts import find_parts

    with nullcontext() if save is None else claimed(save):
        found = find_parts(
            empty_vlm(model), vision_tower=vision_tower, projector=projector or None, language_model=language_model
        )
        typer.echo(str(found))
        if save is not None:
            found.save(save)
