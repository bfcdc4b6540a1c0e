"""`textanchor evaluate`: scores of a model on our suites."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class ComputeFormat(StrEnum):
    """Values of --precision."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


def run(
    model: Annotated[str, typer.Argument(help='"embedded", a folder in Hugging Face format, or a hub id.')],
    suite: Annotated[
        list[str],
        typer.Option(
            help='Suites, groups ("tasks", "all-offline", "language"), your files ("folder:PATH", "pope:PATH", '
            '"chair:PATH", "language:PATH") or "lm_eval:TASK"; may be repeated, or separated by commas.'
        ),
    ],
    out: Annotated[Path, typer.Option(help="Output folder; a run that was interrupted is taken up from it.")],
    num_items: Annotated[
        int | None,
        typer.Option(min=1, help="Items for each suite; 200, 3 x 300 of POPE, 100 captions, all of your files."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Which items are drawn.")] = 0,
    baseline: Annotated[
        list[Path] | None,
        typer.Option(help="Output folder of an earlier evaluation, to show what was kept; several in order."),
    ] = None,
    tuned: Annotated[
        list[str] | None, typer.Option(help="Suite that was learned since the baseline; several in their order.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Output folder of another method, itself with a baseline, to compare at equal learning."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Model from which the divergence on text is measured, such as the one tuned.")
    ] = None,
    free_answers: Annotated[bool, typer.Option(help="Have closed questions also answered freely.")] = False,
    split: Annotated[str, typer.Option(help="Split of your files.")] = "test",
    image_folder: Annotated[
        Path | None, typer.Option(help="Where image paths of your files begin, if not in their folder.")
    ] = None,
    synonyms: Annotated[
        Path | None, typer.Option(help='CHAIR\'s objects, one "name, synonym, synonym" a line.')
    ] = None,
    skip_malformed: Annotated[
        bool, typer.Option(help="Leave malformed rows of your files out, counted and named.")
    ] = False,
    precision: Annotated[
        ComputeFormat,
        typer.Option(help="What scores are computed in; auto: as the baseline, else whichever is faster here."),
    ] = ComputeFormat.auto,
    cache: Annotated[bool, typer.Option(help="Take results of an equal model and suite from the cache.")] = True,
) -> None:
    """Score MODEL on suites: accuracy and gold-answer cross-entropy on tasks, POPE, CHAIR, CIDEr-D, plain text."""
    from textanchor.evaluation.command import evaluate_named
    from textanchor.evaluation.suite import SuiteOptions

    names = [name.strip() for text in suite for name in text.split(",")]
    options = SuiteOptions(
        split=split,
        image_folder=image_folder,
        synonyms=synonyms,
        skip_malformed=skip_malformed,
        free_answers=free_answers,
    )
    result = evaluate_named(
        model,
        names,
        num_items=num_items,
        seed=seed,
        out=out,
        baselines=baseline or (),
        tuned=tuned or (),
        against=against,
        base=base,
        options=options,
        precision=precision.value,
        use_cache=cache,
    )
    typer.echo(str(result))
