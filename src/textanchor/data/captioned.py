"""Images with the captions that describe them: from a folder with a data.jsonl, or drawn.

A row has `image` (relative to the folder of the file) and may have `captions` (a list of texts); where it has none, the
`answer` of a row whose `task` names captions is one. Rows of one image are put together.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from textanchor.data.items import ImageSource
from textanchor.data.json_rows import data_file, read_rows, text_of, texts_of
from textanchor.data.row_images import image_of, name_in
from textanchor.data.scenes import draw_scene
from textanchor.data.tasks import require_drawable
from textanchor.errors import DataError

SCENES = "scenes"
"""Name under which drawn scenes stand in for a data folder."""
SCENE_SEED = 900_000_000
"""First drawn scene; the tasks use lower seeds, so that these scenes were never trained or scored on."""


@dataclass(frozen=True, kw_only=True)
class CaptionedImage:
    """One image and what is said about it, nothing where the data does not say."""

    id: str
    image: ImageSource
    captions: tuple[str, ...] = ()


def load_captioned(source: str | Path, *, num_images: int, seed: int = 0) -> list[CaptionedImage]:
    """`num_images` images (all, where there are fewer) of a folder or a data file, drawn by `seed`; or drawn scenes.

    DataError names file and line for rows that cannot be used, and a folder without any image.
    """
    if str(source) == SCENES:
        require_drawable(num_images)
        scenes = (draw_scene(SCENE_SEED + 1_000_000 * seed + i) for i in range(num_images))
        return [
            CaptionedImage(id=f"scene-{s.seed}", image=s.image(), captions=(f"There is {s.caption()}.",))
            for s in scenes
        ]
    found = read_captioned(Path(source))
    chosen = np.random.default_rng([seed, 0x1A6E]).permutation(len(found))[:num_images]
    return [found[i] for i in sorted(chosen.tolist())]


def read_captioned(path: Path) -> list[CaptionedImage]:
    """Every image of a data file, or of the data file in a folder, in the order of its first row, with its captions."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give a folder with a data.jsonl, or {SCENES!r}")
    file = data_file(path)
    images: dict[Path, dict[str, None]] = {}
    for place, row in read_rows(file):
        captions = images.setdefault(image_of(place, row, file.parent), {})
        captions.update(dict.fromkeys(_captions(place, row)))
    if not images:
        raise DataError(f"{file}: holds no row; expected one JSON object with 'image' on each line")
    return [
        CaptionedImage(id=name_in(file.parent, image), image=image, captions=tuple(captions))
        for image, captions in images.items()
    ]


def _captions(place: str, row: dict[str, Any]) -> tuple[str, ...]:
    given = texts_of(place, row, "captions")
    if given or "caption" not in str(row.get("task", "")):
        return given
    return (text_of(place, row, "answer", f"the caption of task {row['task']!r}"),)
