"""Handwritten digits (8 x 8 pixels, UCI, CC BY 4.0) from scikit-learn's package, enlarged."""

from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from textanchor.data.items import Item

DIGIT_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
QUESTION = "Which digit is written in the image?"


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()  # a Bunch, unless return_X_y is set
    return bunch.images, bunch.target


def num_digits() -> int:
    """Number of images in the set."""
    return len(_digits()[1])


def digit_item(index: int, *, size: int = 224) -> Item:
    """Digit number `index` of the set, dark on light, with the ten number words as choices."""
    images, targets = _digits()
    gray = (255 - images[index] * (255 / 16)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(gray).resize((size, size), Image.Resampling.BICUBIC).convert("RGB")
    return Item(
        id=f"digit-{index}",
        task="digits",
        question=QUESTION,
        answer=DIGIT_WORDS[int(targets[index])],
        choices=DIGIT_WORDS,
        image=image,
        image_id=f"digit-{index}",
    )
