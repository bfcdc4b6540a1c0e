"""Tasks as items and conversations: splits do not share images, seeds decide, mistakes are named."""

import pytest

from textanchor.data.digits import DIGIT_WORDS
from textanchor.data.items import open_image
from textanchor.data.scenes import COLORS
from textanchor.data.tasks import TASKS, load_conversations, load_items
from textanchor.data.teams import TEAMS
from textanchor.data.texts import load_texts
from textanchor.data.words import WORDS
from textanchor.errors import ConfigError

OFFLINE = [task for task in TASKS if task != "easy_vqa"]  # easy-VQA is fetched; tests/integration reads it


@pytest.mark.parametrize("task", OFFLINE)
def test_items_are_complete_and_repeatable(task: str):
    items = load_items(task, split="test", num_items=12, seed=1)
    again = load_items(task, split="test", num_items=12, seed=1)
    assert [(i.id, i.question, i.answer) for i in items] == [(i.id, i.question, i.answer) for i in again]
    assert len({item.id for item in items}) == 12
    for item in items:
        assert item.image is not None
        assert open_image(item.image).size == (224, 224)
        assert not item.choices or item.answer in item.choices


@pytest.mark.parametrize("task", OFFLINE)
def test_splits_share_no_image(task: str):
    ids = {
        split: {item.image_id for item in load_items(task, split=split, num_items=60)}
        for split in ("train", "validation", "test")
    }
    assert not ids["train"] & ids["test"]
    assert not ids["train"] & ids["validation"]
    assert not ids["validation"] & ids["test"]


def test_scene_tasks_ask_about_the_same_images():
    shape = load_items("shape", split="test", num_items=5)
    color = load_items("color", split="test", num_items=5)
    assert [item.image_id for item in shape] == [item.image_id for item in color]


def test_all_words_and_digits_occur():
    assert {item.answer for item in load_items("words", split="train", num_items=200)} == set(WORDS)
    assert {item.answer for item in load_items("digits", split="train", num_items=200)} == set(DIGIT_WORDS)


def test_conversations_are_single_turns_with_their_image():
    conversations = load_conversations("digits", split="train", num_images=3)
    items = load_items("digits", split="train", num_items=3)
    assert [c.turns[0].answer for c in conversations] == [item.answer for item in items]
    assert all(len(c.images) == 1 and len(c.turns) == 1 for c in conversations)


def test_an_unknown_task_and_too_many_items_are_named():
    with pytest.raises(ConfigError, match=r"unknown task 'digit'.*digits"):
        load_items("digit", split="test", num_items=1)
    with pytest.raises(ConfigError, match="only 256 items, 5000 were asked for"):
        load_items("digits", split="test", num_items=5000)


def test_shipped_texts_have_apart_topics_and_are_small():
    train, test = load_texts("train"), load_texts("test")
    assert len(train) == 320
    assert len(test) == 160
    assert not {row.prompt for row in train} & {row.prompt for row in test}
    assert all(row.text.strip() for row in train + test)


def test_teams_follow_from_the_color_of_the_one_object_of_a_shape():
    items = load_items("team", split="test", num_items=40)
    for item in items:
        shape = item.question.removeprefix("Which team does a").removeprefix("n").split()[0]
        (name,) = [name for name in item.objects if name.split()[1] == shape]
        assert item.answer == TEAMS[name.split()[0]]
    assert {item.answer for item in items} == set(TEAMS.values())
    assert len(set(TEAMS.values())) == len(COLORS)
