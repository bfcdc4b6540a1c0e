"""`textanchor measure`: the geometry of a model on images and texts, and claims that can say no."""

from pathlib import Path
from typing import Annotated

import typer


def run(
    model: Annotated[str, typer.Argument(help='"embedded", a folder in Hugging Face format, or a hub id.')],
    data: Annotated[
        str, typer.Option(metavar="DIR", help='Folder with a data.jsonl (images, captions), or "scenes", drawn here.')
    ],
    out: Annotated[Path, typer.Option(help="Output folder for geometry.json and geometry.html; must be empty.")],
    num_images: Annotated[int, typer.Option(help="Images drawn from the data.")] = 500,
    texts: Annotated[
        Path | None, typer.Option(help="Texts that stand for text space (.txt, or JSON with `text`); ours if left out.")
    ] = None,
    num_texts: Annotated[int, typer.Option(help="Texts taken, from the first.")] = 256,
    max_text_tokens: Annotated[int, typer.Option(help="Tokens of a text that are run.")] = 32,
    gallery_images: Annotated[
        int, typer.Option(help="Images shown with a caption and their words; 0 writes numbers only.")
    ] = 6,
    tuning_steps: Annotated[
        int,
        typer.Option(
            help="Steps of two joint tunings, for the claims of rigidity and of who moves; 0 leaves them out. 40 take "
            "some four minutes of two cores on the embedded model."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the images drawn, of samples, nulls and tunings.")] = 0,
) -> None:
    """Measure how image and text positions of MODEL lie, layer by layer, and test the claims C1 and C2 on it."""
    import time

    from rich.console import Console

    from textanchor.analysis.config import MeasureConfig
    from textanchor.analysis.measure import measure_to_folder
    from textanchor.analysis.summary import summary
    from textanchor.records import command_line

    began = time.monotonic()
    console = Console(stderr=True, highlight=False)
    config = MeasureConfig(
        model=model,
        data=data,
        num_images=num_images,
        texts=texts,
        num_texts=num_texts,
        max_text_tokens=max_text_tokens,
        gallery_images=gallery_images,
        tuning_steps=tuning_steps,
        seed=seed,
    )
    numbers = measure_to_folder(
        config,
        out,
        command=command_line(),
        say=lambda text: console.print(f"[dim]{time.monotonic() - began:4.0f} s[/]  {text}"),
    )
    typer.echo(summary(numbers))
    typer.echo(f"\n{out / 'geometry.html'}")
