"""The training stream: step n of a seed is always the same images and questions, so a run can be resumed anywhere."""

from collections import defaultdict
from functools import cache

import numpy as np

from textanchor.data.easy_vqa import easy_vqa_item, num_questions
from textanchor.data.items import Item
from textanchor.data.photographs import photograph_item
from textanchor.data.tasks import scene_items

SCENE_QUESTIONS = 10
EASY_VQA_QUESTIONS = 8


@cache
def _easy_vqa_images() -> list[list[int]]:
    """Question numbers of each easy-VQA training image; every seventh question index is kept for validation."""
    by_image: dict[str | None, list[int]] = defaultdict(list)
    for index in range(num_questions("train")):
        if index % 7 < 5:
            by_image[easy_vqa_item("train", index).image_id].append(index)
    return list(by_image.values())


def images_of_step(step: int, *, seed: int, num_images: int) -> list[list[Item]]:
    """Items grouped by image: about 3 of 4 images are drawn scenes, 1 of 6 is from easy-VQA, 1 of 12 a photograph."""
    rng = np.random.default_rng([seed, step, 0xA116])
    groups = []
    for slot in range(num_images):
        number = (seed * 1_000_000 + step * num_images + slot) % 100_000_000
        kind = rng.random()
        if kind < 1 / 12:
            groups.append([photograph_item(number)])
        elif kind < 1 / 4:
            images = _easy_vqa_images()
            indices = images[int(rng.integers(len(images)))]
            chosen = rng.permutation(len(indices))[:EASY_VQA_QUESTIONS]
            groups.append([easy_vqa_item("train", indices[int(i)]) for i in chosen])
        else:
            groups.append(scene_items(number, num_questions=SCENE_QUESTIONS))
    return groups
