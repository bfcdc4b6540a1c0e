"""Drawn scenes and their questions: what is drawn is what the object list says, and a seed says it all."""

import numpy as np
import pytest

from textanchor.data.scene_questions import SCENE_TASKS, ask
from textanchor.data.scenes import CELLS, COLORS, SHAPES, SIZES, Scene, SceneObject, draw_scene
from textanchor.data.tasks import OBJECT_NAMES, scene_items

SCENES = [draw_scene(seed) for seed in range(300)]


def lone_object(shape: str, *, color: str = "red", size: str = "large", cell: int = 0) -> Scene:
    thing = SceneObject(shape=shape, color=color, size=size, cell=cell, offset=(0.0, 0.0), angle=0.0)
    return Scene(seed=0, background=(128, 128, 128), objects=(thing,))


def painted(scene: Scene) -> np.ndarray:
    """(224, 224) bool: pixels that are not background."""
    return (np.asarray(scene.image()).astype(int) != scene.background).any(axis=-1)


def test_a_seed_gives_one_scene_and_one_image():
    again = draw_scene(7)
    assert again == SCENES[7]
    assert again.image().tobytes() == SCENES[7].image().tobytes()
    assert len({scene.image().tobytes() for scene in SCENES[:50]}) == 50


def test_scenes_cover_all_counts_shapes_colors_and_cells():
    counts = np.bincount([len(scene.objects) for scene in SCENES], minlength=5)[1:]
    assert (counts > 50).all()
    things = [thing for scene in SCENES for thing in scene.objects]
    assert {thing.shape for thing in things} == set(SHAPES)
    assert {thing.color for thing in things} == set(COLORS)
    assert {thing.position for thing in things} == set(CELLS)
    assert all(len({thing.name for thing in scene.objects}) == len(scene.objects) for scene in SCENES)
    assert {thing.name for thing in things} <= set(OBJECT_NAMES)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", range(4))
def test_an_object_is_painted_in_its_color_in_its_cell_only(shape: str, cell: int):
    scene = lone_object(shape, color="blue", cell=cell)
    mask = painted(scene)
    quarter = np.zeros_like(mask)
    row, column = divmod(cell, 2)
    quarter[row * 112 : (row + 1) * 112, column * 112 : (column + 1) * 112] = True
    assert mask.any()
    assert not (mask & ~quarter).any()
    pixels = np.asarray(scene.image())[mask]
    assert (pixels == COLORS["blue"]).all(axis=-1).mean() > 0.8  # the rest is the smoothed border


def test_large_objects_cover_more_than_small_ones_and_shapes_differ():
    areas = {(shape, size): int(painted(lone_object(shape, size=size)).sum()) for shape in SHAPES for size in SIZES}
    assert all(areas[shape, "large"] > 2 * areas[shape, "small"] for shape in SHAPES)
    assert len({areas[shape, "large"] for shape in SHAPES}) == len(SHAPES)


def test_a_scene_with_too_many_objects_is_refused():
    with pytest.raises(ValueError, match="between 1 and 4"):
        draw_scene(0, num_objects=5)
    assert all(len(draw_scene(seed, num_objects=3).objects) == 3 for seed in range(5))


def true_answers(scene: Scene, question: str) -> set[str]:
    """All answers to a question that the object list allows, worked out from the words of the question."""
    text = question.rstrip("?")
    things = scene.objects
    names = {thing.name: thing for thing in things}
    mentioned = [thing for name, thing in names.items() if f" {name} " in f" {text} ".replace(",", " ")]
    if text.startswith("Is there"):
        return {"yes" if text.removesuffix(" in the image").split(" ", 3)[3] in names else "no"}
    if text.startswith("How many"):
        return {("one", "two", "three", "four")[len(things) - 1]}
    if text.startswith("Where"):
        return {thing.position for thing in mentioned}
    if text.startswith("Is the"):
        return {thing.size for thing in mentioned}
    if text.startswith("Which is larger"):
        return {f"the {thing.name}" for thing in mentioned if thing.size == "large"}
    asked = "shape" if text.startswith("What shape") else "color"
    where = [thing for thing in things if thing.position in text]
    other = "color" if asked == "shape" else "shape"
    return {getattr(thing, asked) for thing in where or [t for t in things if getattr(t, other) in text.split()]}


@pytest.mark.parametrize("task", [task for task in SCENE_TASKS if task != "caption"])
def test_answers_follow_from_the_object_list(task: str):
    asked = [ask(scene, task, np.random.default_rng(scene.seed), id="x") for scene in SCENES]
    items = [(scene, item) for scene, item in zip(SCENES, asked, strict=True) if item is not None]
    assert len(items) > 100
    for scene, item in items:
        assert true_answers(scene, item.question) == {item.answer}, item
        assert item.answer in item.choices


def test_existence_is_balanced_and_half_of_the_absent_names_are_near():
    items = [ask(scene, "existence", np.random.default_rng(scene.seed), id="x") for scene in SCENES]
    absent = [item for item in items if item is not None and item.answer == "no"]
    assert 0.4 < len(absent) / len(items) < 0.6
    shares_a_word = [
        any(word in name.split() for name in item.objects for word in item.question.split()[3:5]) for item in absent
    ]
    assert 0.4 < np.mean(shares_a_word) < 0.9


def test_a_caption_names_every_object_with_its_place():
    for scene in SCENES[:20]:
        item = ask(scene, "caption", np.random.default_rng(0), id="x")
        assert item is not None
        assert all(f"{thing.name} in the {thing.position}" in item.answer for thing in scene.objects)


def test_questions_about_one_scene_are_different_and_show_one_image():
    items = scene_items(3, num_questions=10)
    assert len({item.question for item in items}) == 10
    assert {item.image_id for item in items} == {"scene-3"}
    assert scene_items(3, num_questions=10)[0].question == items[0].question
