"""Questions about a drawn scene whose answers follow from its object list; a function of the scene and a generator."""

from collections.abc import Callable

import numpy as np

from textanchor.data.items import Item
from textanchor.data.scenes import CELLS, COLORS, SHAPES, Scene, SceneObject, with_article

COUNT_WORDS = ("one", "two", "three", "four")
YES_NO = ("yes", "no")

Asked = tuple[str, str, tuple[str, ...]]
"""Question, gold answer, all candidate answers (empty for open questions)."""


def _pick(things: list[SceneObject], rng: np.random.Generator) -> SceneObject:
    return things[int(rng.integers(len(things)))]


def _unique(scene: Scene, attribute: str) -> list[SceneObject]:
    values = [getattr(thing, attribute) for thing in scene.objects]
    return [thing for thing in scene.objects if values.count(getattr(thing, attribute)) == 1]


def ask_existence(scene: Scene, rng: np.random.Generator) -> Asked:
    """Is a named object there? Half the answers are yes; half the "no" names share shape or color with an object."""
    present = {thing.name for thing in scene.objects}
    if rng.random() < 0.5:
        return _existence(_pick(list(scene.objects), rng).name), "yes", YES_NO
    absent = [f"{color} {shape}" for shape in SHAPES for color in COLORS if f"{color} {shape}" not in present]
    if rng.random() < 0.5:
        near = _pick(list(scene.objects), rng)
        absent = [name for name in absent if near.color in name.split() or near.shape in name.split()]
    return _existence(absent[int(rng.integers(len(absent)))]), "no", YES_NO


def _existence(name: str) -> str:
    return f"Is there {with_article(name)} in the image?"


def ask_shape(scene: Scene, rng: np.random.Generator) -> Asked:
    """Shape of the object of a color that only one object has, or of the object in a named place."""
    unique = _unique(scene, "color")
    if unique and rng.random() < 0.5:
        thing = _pick(unique, rng)
        return f"What shape is the {thing.color} object?", thing.shape, SHAPES
    thing = _pick(list(scene.objects), rng)
    return f"What shape is in the {thing.position}?", thing.shape, SHAPES


def ask_color(scene: Scene, rng: np.random.Generator) -> Asked:
    """Color of the object of a shape that only one object has, or of the object in a named place."""
    unique = _unique(scene, "shape")
    if unique and rng.random() < 0.5:
        thing = _pick(unique, rng)
        return f"What color is the {thing.shape}?", thing.color, tuple(COLORS)
    thing = _pick(list(scene.objects), rng)
    return f"What color is the object in the {thing.position}?", thing.color, tuple(COLORS)


def ask_position(scene: Scene, rng: np.random.Generator) -> Asked:
    """Which quarter of the image a named object is in."""
    thing = _pick(list(scene.objects), rng)
    return f"Where is the {thing.name}?", thing.position, CELLS


def ask_count(scene: Scene, rng: np.random.Generator) -> Asked:
    """Number of all objects."""
    return "How many objects are in the image?", COUNT_WORDS[len(scene.objects) - 1], COUNT_WORDS


def ask_size(scene: Scene, rng: np.random.Generator) -> Asked:
    """Whether a named object is small or large."""
    thing = _pick(list(scene.objects), rng)
    return f"Is the {thing.name} small or large?", thing.size, ("small", "large")


def ask_comparison(scene: Scene, rng: np.random.Generator) -> Asked | None:
    """Which of two objects of unequal size is larger; None where all objects have one size."""
    small = [thing for thing in scene.objects if thing.size == "small"]
    large = [thing for thing in scene.objects if thing.size == "large"]
    if not small or not large:
        return None
    pair = [_pick(small, rng), _pick(large, rng)]
    gold = f"the {pair[1].name}"
    first, second = (pair[int(i)] for i in rng.permutation(2))
    names = (f"the {first.name}", f"the {second.name}")
    return f"Which is larger, {names[0]} or {names[1]}?", gold, names


def ask_caption(scene: Scene, rng: np.random.Generator) -> Asked:
    """The caption with every object and its place."""
    return "Describe the image.", f"{scene.caption()}.", ()


SCENE_TASKS: dict[str, Callable[[Scene, np.random.Generator], Asked | None]] = {
    "existence": ask_existence,
    "shape": ask_shape,
    "color": ask_color,
    "position": ask_position,
    "count": ask_count,
    "size": ask_size,
    "comparison": ask_comparison,
    "caption": ask_caption,
}


def ask(scene: Scene, task: str, rng: np.random.Generator, *, id: str) -> Item | None:
    """One item of the task about the scene, without its image; None where the scene allows no such question."""
    asked = SCENE_TASKS[task](scene, rng)
    if asked is None:
        return None
    question, answer, choices = asked
    names = tuple(thing.name for thing in scene.objects)
    references = (answer,) if task == "caption" else ()
    return Item(
        id=id, task=task, question=question, answer=answer, choices=choices, objects=names, references=references
    )
