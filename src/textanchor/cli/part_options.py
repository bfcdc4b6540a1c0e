"""Options of several verbs that name the parts of a model."""

from typing import Annotated

import typer

VisionTower = Annotated[str | None, typer.Option(help="Module path of the vision tower, if not found.")]
Projector = Annotated[
    list[str] | None, typer.Option(help="Module path of the projector, if not found; may be repeated.")
]
LanguageModel = Annotated[str | None, typer.Option(help="Module path of the language model, if not found.")]
