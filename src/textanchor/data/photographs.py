"""Random crops of the public-domain and CC0 photographs that come inside scikit-image's package."""

from functools import cache

import numpy as np
from PIL import Image

from textanchor.data.items import Item

PHOTOGRAPHS = {
    "astronaut": "an astronaut",
    "brick": "a brick wall",
    "camera": "a man with a camera",
    "chelsea": "a cat",
    "coffee": "a cup of coffee",
    "coins": "coins",
    "grass": "grass",
    "gravel": "gravel",
    "horse": "a horse",
    "hubble_deep_field": "galaxies",
    "retina": "a retina",
    "rocket": "a rocket",
}
"""scikit-image's name of the photograph and what it shows (licences: scikit-image, `skimage.data`)."""


@cache
def _photograph(name: str) -> Image.Image:
    import skimage.data

    array = np.asarray(getattr(skimage.data, name)())
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    return Image.fromarray(array).convert("RGB")


def photograph_item(seed: int, *, size: int = 224) -> Item:
    """What a random crop (60 % of the area or more, possibly mirrored) of a random photograph shows."""
    rng = np.random.default_rng([seed, 0xF070])
    name = tuple(PHOTOGRAPHS)[int(rng.integers(len(PHOTOGRAPHS)))]
    photograph = _photograph(name)
    side = int(min(photograph.size) * rng.uniform(0.78, 1.0))
    left = int(rng.integers(photograph.width - side + 1))
    top = int(rng.integers(photograph.height - side + 1))
    image = photograph.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return Item(
        id=f"photograph-{seed}",
        task="photograph",
        question="What does this photo show?",
        answer=PHOTOGRAPHS[name],
        choices=tuple(PHOTOGRAPHS.values()),
        image=image,
        image_id=f"photograph-{seed}",
    )
