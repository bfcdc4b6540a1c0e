"""`textanchor repair`: take back a part of what tuning changed, without training."""

from pathlib import Path
from typing import Annotated

import typer

from textanchor.cli.part_options import LanguageModel, Projector, VisionTower


def run(
    tuned: Annotated[str, typer.Argument(help="The tuned model: a folder, or a PEFT adapter's folder.")],
    base: Annotated[str, typer.Option(help="The model before tuning: a folder, or a hub id.")],
    out: Annotated[Path, typer.Option(help="New folder for the repaired model, repair.html and repair.json.")],
    plan: Annotated[
        Path | None, typer.Option(metavar="YAML", help="What to take back; half of every part's change by default.")
    ] = None,
    strength: Annotated[float, typer.Option(help="From 0 (as tuned) to 1 (the plan in full).")] = 1.0,
    validate: Annotated[
        list[str] | None,
        typer.Option(help='Suite of the new task, or "folder:PATH", to choose the strength by; may be repeated.'),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help='Suite of what is to be kept ("tasks" by default); may be repeated.')
    ] = None,
    num_items: Annotated[int | None, typer.Option(min=1, help="Items of each suite of the validation.")] = None,
    seed: Annotated[int, typer.Option(help="Which items are drawn.")] = 0,
    vision_tower: VisionTower = None,
    projector: Projector = None,
    language_model: LanguageModel = None,
) -> None:
    """Repair TUNED: interpolate towards its base, part by part, or apply a hold plan once; writes plain weights."""
    from textanchor.config import load_config
    from textanchor.errors import ConfigError
    from textanchor.repairs import RepairPlan, repair
    from textanchor.repairs.validate import Validation

    if not validate and (keep or num_items is not None or seed):
        raise ConfigError("--keep, --num-items and --seed belong to a validation: give --validate too")
    validation = None
    if validate:
        kept = tuple(keep or ("tasks",))
        validation = Validation(learned=tuple(validate), kept=kept, num_items=num_items, seed=seed)
    chosen = None if plan is None else load_config(RepairPlan, plan)
    report = repair(
        tuned,
        base,
        out,
        plan=chosen,
        strength=strength,
        validation=validation,
        vision_tower=vision_tower,
        projector=projector or None,
        language_model=language_model,
    )
    typer.echo(str(report))
