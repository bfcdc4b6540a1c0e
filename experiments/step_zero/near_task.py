"""A new question about drawn scenes, the same kind of image as the retained tasks': which team an object plays for.

The team follows from the object's colour by a table that is nowhere else, so it has to be learned; colour itself is
among the retained tasks. Written as a folder of textanchor's own formats, with splits as those of the drawn tasks.
"""

import json
from pathlib import Path

import numpy as np

from textanchor.data.scenes import COLORS, draw_scene, with_article
from textanchor.data.tasks import drawn_seeds
from textanchor.files import atomic_directory

NAME = "team"
TEAMS = ("lions", "bears", "wolves", "eagles", "sharks", "tigers", "ravens", "horses", "foxes", "hawks")
NUM_ROWS = {"validation": (128, 1), "test": (256, 0)}
"""Split -> number of rows, seed of its scenes; the references' validation scenes are those of seed 0."""


def write_task(folder: Path, *, num_training: int, seeds: tuple[int, ...]) -> None:
    """`data.jsonl` with the validation and test split, and train-<seed>.json with conversations for each seed."""
    if folder.is_dir():
        return
    with atomic_directory(folder) as temporary:
        (temporary / "images").mkdir()
        rows = [row for split, (count, seed) in NUM_ROWS.items() for row in _rows(temporary, split, seed, count)]
        (temporary / "data.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        for seed in seeds:
            talks = [_conversation(row) for row in _rows(temporary, "train", seed, num_training)]
            (temporary / f"train-{seed}.json").write_text(json.dumps(talks, indent=1))


def _rows(folder: Path, split: str, seed: int, count: int) -> list[dict]:
    rows = []
    for scene_seed in drawn_seeds(split, seed):  # pyright: ignore[reportArgumentType]
        scene = draw_scene(scene_seed)
        rng = np.random.default_rng([scene_seed, 0x7EA3])
        shapes = [thing.shape for thing in scene.objects]
        unique = [thing for thing in scene.objects if shapes.count(thing.shape) == 1]
        if not unique:
            continue
        thing = unique[int(rng.integers(len(unique)))]
        image = f"images/{split}-{scene_seed}.png"
        scene.image().save(folder / image)
        question = f"Which team does {with_article(thing.shape)} in this image play for?"
        teams = dict(zip(COLORS, TEAMS, strict=False))
        row = {"id": f"{NAME}-{scene_seed}", "image": image, "task": NAME, "split": split, "question": question}
        rows.append(row | {"answer": teams[thing.color], "choices": list(teams.values())})
        if len(rows) == count:
            break
    return rows


def _conversation(row: dict) -> dict:
    said = [{"from": "human", "value": f"<image>\n{row['question']}"}, {"from": "gpt", "value": row["answer"]}]
    return {"id": row["id"], "image": row["image"], "conversations": said}
