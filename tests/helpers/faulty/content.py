"""Kinds of faults in data, and in what textanchor wrote itself: reports, checkpoints, evaluations, anchors."""

import json
import random
from pathlib import Path
from typing import Any

import yaml

from helpers.faulty.fault import Fault, kind
from helpers.faulty.study import COMMANDS
from helpers.faulty.values import at, damaged_json, places, removed, replaced

ROWS = {"adapt": "train.json", "evaluate": "questions/data.jsonl", "measure": "captioned/data.jsonl"}
WRONG: list[Any] = [None, 3, "", [], {}, [[["x"]]], {"a": {"b": 1}}, 10**400, "\ud800"]
FREE = {"environment", "config", "movement", "cost", "format_version", "margins_version", "note", "random_weights"}
"""Keys of reports whose content is free, not asked for, or may be left out."""


@kind
def rows_text(verb: str, place: Path, chance: random.Random) -> Fault:
    """A data file that is none."""
    file = place / ROWS[verb]
    file.write_bytes(damaged_json(file.read_text(), chance))
    return Fault(COMMANDS[verb], ROWS[verb].partition("/")[0])


@kind
def row(verb: str, place: Path, chance: random.Random) -> Fault:
    """One row in which a key is missing or has a value that it cannot have."""
    file = place / ROWS[verb]
    text = file.read_text()
    rows = json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    number = chance.randrange(len(rows))
    needed = {"adapt": ("conversations", "image"), "evaluate": ("question", "answer"), "measure": ("image",)}
    path = chance.choice([path for path in places(rows[number]) if path[0] in needed[verb]])
    if chance.random() < 0.3:
        rows[number] = removed(rows[number], path)
    else:
        rows[number] = replaced(rows[number], path, chance.choice([value for value in WRONG if value != ""]))
    lines = [json.dumps(row) for row in rows]
    file.write_text(f"[{', '.join(lines)}]" if file.suffix == ".json" else "".join(f"{line}\n" for line in lines))
    return Fault(COMMANDS[verb], file.name)


@kind
def image(verb: str, place: Path, chance: random.Random) -> Fault:
    """An image that is missing, cut off, empty, something else, or a folder."""
    file = place / ("captioned" if verb == "measure" else "questions") / f"{chance.randrange(20)}.png"
    content = file.read_bytes()
    form = chance.randrange(6)
    file.unlink()
    if form == 1:
        file.mkdir()
    elif form > 1:
        cut = content[: chance.randrange(30, len(content) - 20)]
        file.write_bytes([b"", b"no image", cut, content[:20] + chance.randbytes(40)][form - 2])
    # a checkpoint before the image would be kept, to go on from
    more = ["--set", "training.save_steps=null"] if verb == "adapt" else []
    return Fault([*COMMANDS[verb], *more], file.name)


@kind
def report_text(verb: str, place: Path, chance: random.Random) -> Fault:
    """A report.json or geometry.json that is no JSON, or holds no object."""
    file = _report(place, chance)
    file.write_bytes(damaged_json(file.read_text(), chance))
    return Fault(["report", file.parent.name], file.name)


@kind
def report_value(verb: str, place: Path, chance: random.Random) -> Fault:
    """A report.json or geometry.json with a value that its key cannot have."""
    file = _report(place, chance)
    content = json.loads(file.read_text())
    path = chance.choice([path for path in places(content) if path[0] not in FREE and _is_asked_for(path)])
    value = chance.choice([10**400, [[["x"]]], {"a": {"b": 1}}, -(10**20), "\ud800", float("nan"), True])
    if isinstance(at(content, path), bool) and value is True:
        value = 2
    file.write_text(json.dumps(replaced(content, path, value)))
    return Fault(["report", file.parent.name], file.name)


def _report(place: Path, chance: random.Random) -> Path:
    return place / chance.choice(["reported/report.json", "measured_before/geometry.json"])


def _is_asked_for(path: tuple[str | int, ...]) -> bool:
    unused = {"isoscore_star", "spectral_slope", "num_captioned", "texts", "num_texts", "images_hash", "texts_hash"}
    of_model = {"parameters", "vision_tower", "projector", "language_model"}
    return not unused & set(path) and not (path[0] == "model" and of_model & set(path))


@kind
def interrupted_run(verb: str, place: Path, chance: random.Random) -> Fault:
    """A checkpoint of which a file was changed, cut off, taken away or made a folder since it was written."""
    workspace = place / "interrupted" / "adapted.checkpoints"
    file = chance.choice(sorted(path for path in workspace.rglob("*") if path.is_file()))
    _tampered(file, chance)
    return Fault(["adapt", "adapt.yaml", "--resume"], "adapted.checkpoints", folder="interrupted")


@kind
def interrupted_evaluation(verb: str, place: Path, chance: random.Random) -> Fault:
    """An evaluation that was cut short and whose files were changed since, or that is of another model."""
    folder = place / "evaluated_before"
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".jsonl"))
    file = chance.choice(files)
    _changed(file, chance)
    arguments = [argument.replace("evaluated", folder.name) for argument in COMMANDS["evaluate"]]
    return Fault(arguments, folder.name)


@kind
def baseline(verb: str, place: Path, chance: random.Random) -> Fault:
    """An earlier evaluation of which a file that is read again was changed or taken away."""
    file = place / "baseline" / chance.choice(["scores.jsonl", "run.json"])
    _tampered(file, chance)
    return Fault([*COMMANDS[verb], "--baseline", "baseline"], "baseline")


@kind
def record(verb: str, place: Path, chance: random.Random) -> Fault:
    """A record of a comparison that was changed since."""
    file = chance.choice(sorted((place / "compared" / "runs").iterdir()))
    if chance.random() < 0.5:
        file.write_bytes(damaged_json(file.read_text(), chance))
    else:
        content = json.loads(file.read_text())
        keys = [("seed",), ("method",), ("scores",), ("versions",), ("extra",), ("name",), ("format_version",)]
        file.write_text(json.dumps(replaced(content, chance.choice(keys), chance.choice([[[["x"]]], 1.5]))))
    return Fault(COMMANDS[verb], file.name)


@kind
def anchor(verb: str, place: Path, chance: random.Random) -> Fault:
    """A saved anchor of which a file was changed, cut off or taken away."""
    plan = yaml.safe_load((place / "plan.yaml").read_text())
    del plan["num_texts"]
    (place / "plan.yaml").write_text(yaml.safe_dump(plan | {"anchor": "anchor"}))
    _tampered(chance.choice(sorted((place / "anchor").iterdir())), chance)
    return Fault(COMMANDS[verb], "anchor")


def _tampered(file: Path, chance: random.Random) -> None:
    form = chance.randrange(5)
    if form == 0:
        file.unlink()
    elif form == 1:
        file.unlink()
        file.mkdir()
    else:
        _changed(file, chance)


def _changed(file: Path, chance: random.Random) -> None:
    content = file.read_bytes()
    at = chance.randrange(len(content))
    changed = bytes([content[at] ^ 1 << chance.randrange(7)])
    forms = [content[:at], content[:at] + changed + content[at + 1 :], chance.randbytes(50), content[at:]]
    file.write_bytes(chance.choice([form for form in forms if form != content]))
