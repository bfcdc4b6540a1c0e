"""Small adaptation runs: conversations with and without images, and configurations that finish in a second."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from textanchor.config import from_dict
from textanchor.data.items import Conversation, Turn
from textanchor.training.config import AdaptConfig


def picture(seed: int) -> Image.Image:
    """Random pixels, 32 x 32."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, size=(32, 32, 3), dtype=np.uint8))


def conversation(id: str, *turns: tuple[str, str], images: int | tuple[int, ...] = 0, system: str | None = None) -> Any:
    """A conversation about pictures; `images` is their number, or their seeds."""
    seeds = range(images) if isinstance(images, int) else images
    return Conversation(
        id=id,
        turns=tuple(Turn(question=question, answer=answer) for question, answer in turns),
        images=tuple(picture(seed) for seed in seeds),
        system=system,
    )


def mixed_conversations() -> list[Conversation]:
    """One image, two images, no image, one image again with several turns, the same image as the first."""
    return [
        conversation("one", ("What shape is it?", "star"), images=(1,)),
        conversation("two", ("Is <image> like <image>?", "no"), ("Why?", "they differ"), images=(2, 3)),
        conversation("text", ("How many legs has a cat?", "four"), system="Be brief."),
        conversation("turns", ("What color?", "red"), ("Where?", "top left"), ("Sure?", "yes"), images=(4,)),
        conversation("again", ("What color is it?", "blue"), images=(1,)),
        conversation("long", ("Describe it.", "a red star beside a blue ring"), images=(5,)),
        conversation("later", ("Hello.", "Hi."), ("And <image>?", "a ring"), images=(6,)),
        conversation("last", ("What shape is it?", "ring"), images=(7,)),
    ]


def write_llava_data(folder: Path) -> Path:
    """`mixed_conversations` as a LLaVA JSON file with its images beside it."""
    rows = []
    for c in mixed_conversations():
        names = [f"{c.id}-{i}.png" for i in range(len(c.images))]
        for name, image in zip(names, c.images, strict=True):
            assert isinstance(image, Image.Image)
            image.save(folder / name)
        said = [[{"from": "human", "value": t.question}, {"from": "gpt", "value": t.answer}] for t in c.turns]
        marks = "<image>\n" * (len(names) - sum(t.question.count("<image>") for t in c.turns))
        said[0][0]["value"] = marks + said[0][0]["value"]
        rows.append({"id": c.id, "image": names, "conversations": [message for pair in said for message in pair]})
    path = folder / "data.json"
    path.write_text(json.dumps(rows))
    return path


def run_config(output: Path, **changes: Any) -> AdaptConfig:
    """Six steps on drawn shapes at rates at which a tiny model moves; `changes` by key, dots become double
    underscores.
    """
    values: dict[str, Any] = {
        "model": "tiny",
        "output": str(output),
        "data": {"task": "shape", "num_images": 8},
        "training": {"max_steps": 6, "batch_size": 2, "logging_steps": 2, "weight_decay": 0.1},
        "parts": {
            "projector": {"train": "full", "learning_rate": 1e-2},
            "language_model": {"train": "lora", "learning_rate": 1e-2, "rank": 4},
        },
    }
    for path, value in changes.items():
        *outer, last = path.split("__")
        inner = values
        for key in outer:
            inner = inner.setdefault(key, {})
        if value is None:
            inner.pop(last, None)
        else:
            inner[last] = value
    return from_dict(AdaptConfig, values)
