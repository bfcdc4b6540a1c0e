"""Rendered words: one of sixteen common nouns in a DejaVu font (free licence, shipped by matplotlib)."""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from textanchor.data.items import Item

WORDS = (
    "apple", "bread", "chair", "cloud", "dance", "fish", "green", "house",
    "light", "money", "night", "river", "school", "train", "water", "zebra",
)  # fmt: skip
FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf")
QUESTION = "Which word is written in the image?"


@cache
def _font(name: str, points: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), points)


def word_item(seed: int, *, size: int = 224) -> Item:
    """Word number `seed` of an endless seeded stream: font, size, place and both colors are drawn at random."""
    rng = np.random.default_rng([seed, 0x30BD])
    word = WORDS[int(rng.integers(len(WORDS)))]
    font = _font(FONTS[int(rng.integers(len(FONTS)))], int(rng.integers(36, 56)))
    paper = tuple(int(channel) for channel in rng.integers(200, 256, size=3))
    ink = tuple(int(channel) for channel in rng.integers(0, 90, size=3))
    image = Image.new("RGB", (size, size), paper)
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = draw.textbbox((0, 0), word, font=font)
    x = int(rng.integers(4, int(max(size - (right - left) - 4, 5)))) - left
    y = int(rng.integers(4, int(max(size - (bottom - top) - 4, 5)))) - top
    draw.text((x, y), word, fill=ink, font=font)
    return Item(
        id=f"word-{seed}",
        task="words",
        question=QUESTION,
        answer=word,
        choices=WORDS,
        image=image,
        image_id=f"word-{seed}",
    )
