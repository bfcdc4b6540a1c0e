"""The tasks that textanchor can draw or read offline, as single items and as conversations for training.

Splits never share an image: a drawn split has its own range of seeds, digits are cut by index; easy-VQA keeps its test
part (its "validation" shares images with "train", and is not used to report anything).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Literal

import numpy as np

from textanchor.bounds import MOST_DRAWN, require_range
from textanchor.data import digits, easy_vqa
from textanchor.data.balance import balanced as in_balance
from textanchor.data.items import Conversation, Item, Turn
from textanchor.data.photographs import photograph_item
from textanchor.data.scene_questions import SCENE_TASKS, ask
from textanchor.data.scenes import COLORS, SHAPES, draw_scene
from textanchor.data.teams import team_item
from textanchor.data.words import word_item
from textanchor.errors import ConfigError

Split = Literal["train", "validation", "test"]
SEED_STRIDE = 100_000_000
FIRST_SEED: dict[Split, int] = {"train": 0, "validation": SEED_STRIDE, "test": 2 * SEED_STRIDE}
"""Seeds of a drawn split: `FIRST_SEED[split] + 1_000_000 * seed + n`."""


def drawn_seeds(split: Split, seed: int) -> Iterator[int]:
    """Seeds of the drawn images of a split, in the order in which all drawn tasks use them."""
    start = FIRST_SEED[split] + 1_000_000 * seed
    return iter(range(start, start + 1_000_000))


def require_drawable(num_items: int) -> None:
    """ConfigError where so many items, each with its image, would fill memory or take for ever to draw."""
    require_range("num_items or num_images, of what is drawn here,", num_items, least=0, most=MOST_DRAWN)


def _shuffled(indices: Iterable[int], split: Split, seed: int) -> Iterator[int]:
    """The indices of a split (sevenths: 5 train, 1 validation, 1 test) in a seeded order."""
    sevenths: dict[Split, range] = {"train": range(5), "validation": range(5, 6), "test": range(6, 7)}
    mine = [index for index in indices if index % 7 in sevenths[split]]
    return iter(np.random.default_rng([seed, 0xD161]).permutation(mine).tolist())


def _scene_items(task: str) -> Callable[[Split, int], Iterator[Item]]:
    def stream(split: Split, seed: int) -> Iterator[Item]:
        for scene_seed in drawn_seeds(split, seed):
            scene = draw_scene(scene_seed)
            rng = np.random.default_rng([scene_seed, tuple(SCENE_TASKS).index(task), 0xA5C])
            item = ask(scene, task, rng, id=f"{task}-{scene_seed}")
            if item is not None:
                yield _with_image(item, scene_seed)

    return stream


def _with_image(item: Item, scene_seed: int) -> Item:
    return replace(item, image=draw_scene(scene_seed).image(), image_id=f"scene-{scene_seed}")


def _digit_items(split: Split, seed: int) -> Iterator[Item]:
    return (digits.digit_item(index) for index in _shuffled(range(digits.num_digits()), split, seed))


def _word_items(split: Split, seed: int) -> Iterator[Item]:
    return (word_item(word_seed) for word_seed in drawn_seeds(split, seed))


def _team_items(split: Split, seed: int) -> Iterator[Item]:
    return (item for scene_seed in drawn_seeds(split, seed) if (item := team_item(scene_seed)) is not None)


def _photograph_items(split: Split, seed: int) -> Iterator[Item]:
    return (photograph_item(photo_seed) for photo_seed in drawn_seeds(split, seed))


def _easy_vqa_items(split: Split, seed: int) -> Iterator[Item]:
    part = "test" if split == "test" else "train"
    count = easy_vqa.num_questions(part)
    if split == "test":
        order = np.random.default_rng([seed, 0xEA57]).permutation(count).tolist()
    else:
        order = list(_shuffled(range(count), split, seed))
    return (easy_vqa.easy_vqa_item(part, index) for index in order)


TASKS: dict[str, Callable[[Split, int], Iterator[Item]]] = {
    **{task: _scene_items(task) for task in SCENE_TASKS},
    "easy_vqa": _easy_vqa_items,
    "digits": _digit_items,
    "words": _word_items,
    "team": _team_items,
    "photograph": _photograph_items,
}


def load_items(task: str, *, split: Split, num_items: int, seed: int = 0, balanced: bool = False) -> list[Item]:
    """The first `num_items` single questions of the task; raises ConfigError for an unknown task or too few items.

    With `balanced`, every kind of question and every answer comes equally often (`textanchor.data.balance`).
    """
    if task not in TASKS:
        raise ConfigError(f"unknown task {task!r}; the tasks are {', '.join(TASKS)}")
    require_drawable(num_items)
    stream = TASKS[task](split, seed)
    items = list(islice(in_balance(stream) if balanced else stream, num_items))
    if len(items) < num_items:
        raise ConfigError(f"task {task!r}, split {split!r}: only {len(items)} items, {num_items} were asked for")
    return items


def load_conversations(task: str, *, split: Split, num_images: int, seed: int = 0) -> list[Conversation]:
    """The task's questions as single-turn conversations, one for each image."""
    return [
        Conversation(id=item.id, turns=(Turn(question=item.question, answer=item.answer),), images=_images(item))
        for item in load_items(task, split=split, num_items=num_images, seed=seed)
    ]


def scene_items(scene_seed: int, *, num_questions: int) -> list[Item]:
    """Different questions of all scene tasks about one drawn scene, in random order."""
    scene = draw_scene(scene_seed)
    rng = np.random.default_rng([scene_seed, 0xC0])
    weights = np.array([_TASK_WEIGHTS[task] for task in SCENE_TASKS])
    items: dict[str, Item] = {}
    while len(items) < num_questions:
        task = str(rng.choice(tuple(SCENE_TASKS), p=weights / weights.sum()))
        item = ask(scene, task, rng, id=f"{task}-{scene_seed}-{len(items)}")
        if item is not None:
            items.setdefault(item.question, item)
    image = scene.image()
    return [replace(item, image=image, image_id=f"scene-{scene_seed}") for item in items.values()]


_TASK_WEIGHTS = {
    "existence": 3.0, "shape": 2.0, "color": 2.0, "position": 1.5,
    "count": 0.7, "size": 0.7, "comparison": 0.8, "caption": 0.7,
}  # fmt: skip


def _images(item: Item) -> tuple:
    return () if item.image is None else (item.image,)


OBJECT_NAMES = tuple(f"{color} {shape}" for shape in SHAPES for color in COLORS)
"""Every object that a drawn scene can hold."""
