"""`textanchor diff`: what happened to a tuned model."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from textanchor.cli.part_options import LanguageModel, Projector, VisionTower

EXIT_LOST = 3
"""With --strict: the tuned files do not hold, or do not load as, the model that was trained."""


class Part(StrEnum):
    """Parts that may be meant to stay as they are."""

    vision_tower = "vision_tower"
    projector = "projector"
    language_model = "language_model"
    embedding = "embedding"
    head = "head"


def run(
    base: Annotated[str, typer.Argument(help='The model before tuning: a folder, a file, a hub id, or "embedded".')],
    tuned: Annotated[str, typer.Argument(help="The model after tuning: a folder, a file, or a PEFT adapter's folder.")],
    texts: Annotated[
        Path | None,
        typer.Option(help="Texts (.txt, one on each line, or JSON rows with `text`) to weight the text anchor by."),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="The PEFT adapter that was merged into TUNED, to see how often it was.")
    ] = None,
    frozen: Annotated[
        list[Part] | None, typer.Option(help="A part that was meant to stay as it was; may be repeated.")
    ] = None,
    vision_tower: VisionTower = None,
    projector: Projector = None,
    language_model: LanguageModel = None,
    out: Annotated[Path | None, typer.Option(help="Folder for diff.html and diff.json.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 3 when something was lost.")] = False,
) -> None:
    """Say what changed between BASE and TUNED, and whether TUNED holds what was trained; nothing is run."""
    import sys
    from contextlib import nullcontext

    from rich.console import Console
    from rich.progress import Progress

    from textanchor.data.texts import read_texts
    from textanchor.diffs import diff
    from textanchor.files import atomic_directory

    with nullcontext() if out is None else atomic_directory(out) as folder:
        with Progress(console=Console(file=sys.stderr), transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task("comparing", total=None)
            report = diff(
                base,
                tuned,
                adapter=adapter,
                texts=None if texts is None else read_texts(texts, None),
                frozen=[part.value for part in frozen or ()],
                vision_tower=vision_tower,
                projector=projector or None,
                language_model=language_model,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        _print(report)
        if folder is not None:
            report.write(folder)
    if out is not None:
        typer.echo(f"{out / 'diff.html'}")
    if strict and report.is_lost:
        raise typer.Exit(EXIT_LOST)


def _print(report: Any) -> None:
    """The verdict in one line, the other findings, the table of parts."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    colors = {"lost": "bold red", "warning": "yellow", "note": "green"}
    for finding in report.findings:
        color = colors[finding.severity]
        console.print(f"[{color}]{finding.severity}:[/] {escape(finding.sentence)}", soft_wrap=True)
    console.print(report.part_table().rich(wrap=False))
