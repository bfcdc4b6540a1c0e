"""Images with captions: rows of one image are put together, and what cannot be used is told with its line."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from textanchor.data.captioned import load_captioned, read_captioned
from textanchor.errors import DataError


def write(folder: Path, *rows: Any) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    for name in "abc":
        Image.new("RGB", (8, 8)).save(folder / "images" / f"{name}.png")
    (folder / "data.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def test_rows_of_one_image_are_put_together(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {"image": "images/b.png", "task": "caption", "answer": "two", "captions": ["one", "two"]},
        {"image": "images/a.png", "task": "color", "answer": "red"},
        {"images": ["images/b.png"], "task": "template_caption", "answer": "three"},
        {"image": "images/./b.png", "task": "caption", "answer": "one"},
    )
    found = read_captioned(folder)
    assert [(image.id, image.captions) for image in found] == [
        ("images/b.png", ("one", "two", "three")),
        ("images/a.png", ()),
    ]


def test_a_seed_draws_the_same_images(tmp_path: Path) -> None:
    folder = write(tmp_path, *({"image": f"images/{name}.png"} for name in "abc"))
    drawn = {seed: [image.id for image in load_captioned(folder, num_images=2, seed=seed)] for seed in range(8)}
    assert drawn[0] == [image.id for image in load_captioned(folder, num_images=2, seed=0)]
    assert len(set(map(tuple, drawn.values()))) > 1
    assert len(load_captioned(folder, num_images=99)) == 3


def test_scenes_are_drawn_and_described() -> None:
    first, second = load_captioned("scenes", num_images=2)
    assert first.captions[0].startswith("There is a") and first.captions != second.captions


@pytest.mark.parametrize(
    ("row", "fragments"),
    [
        ({"images": []}, ["line 2", "'image'", "found None"]),
        ({"images": ["images/a.png", "images/b.png"]}, ["line 2", "'image'"]),
        ({"picture": "images/a.png"}, ["line 2", "'picture'", "put its path there"]),
        ({"image": "images/none.png"}, ["line 2", "none.png", "is not in the image folder"]),
        ({"image": "../a.png"}, ["line 2", "leads out of"]),
        ({"image": "images/a.png", "captions": "a dog"}, ["line 2", "'captions'", "a list of texts", "'a dog'"]),
        ({"image": "images/a.png", "captions": ["a dog", " "]}, ["line 2", "'captions'", "a list of texts"]),
        ({"image": "images/a.png", "task": "caption", "answer": " "}, ["line 2", "'answer'", "'caption'"]),
        ([1], ["line 2", "expected a JSON object"]),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: Any, fragments: list[str]) -> None:
    folder = write(tmp_path, {"image": "images/a.png"}, row)
    with pytest.raises(DataError) as error:
        read_captioned(folder)
    assert all(fragment in str(error.value) for fragment in fragments), error.value


def test_a_folder_without_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected data\.jsonl"):
        read_captioned(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        read_captioned(tmp_path / "none")
    (tmp_path / "data.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no row"):
        read_captioned(tmp_path)
