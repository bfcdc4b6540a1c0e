"""The records that training and evaluation exchange: one question, one conversation, one image."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from textanchor.errors import DataError

ImageSource = Path | Image.Image

MAX_IMAGE_PIXELS = 50_000_000
"""Largest width x height that is decoded; a crafted file could otherwise fill the memory."""


PLACEHOLDER = "<image>"
"""Marks the place of an image in a question of a file, whatever token a model itself uses."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question about at most one image, with its gold answer and, for closed tasks, all candidate answers."""

    id: str
    task: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    image: ImageSource | None = None
    image_id: str | None = None
    """Items with the same `image_id` show the same image, so that its features are computed once."""
    objects: tuple[str, ...] = ()
    """Names of everything that is in the image, where that is known exactly."""
    references: tuple[str, ...] = ()
    """Other people's captions of the image, where the answer is one."""
    system: str | None = None
    history: tuple[Turn, ...] = ()
    """Turns before the question; `<image>` in a question marks the place of the image, else it comes first."""


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """Several turns about the same images; `<image>` in a question marks the place of one, else images come first."""

    id: str
    turns: tuple[Turn, ...]
    images: tuple[ImageSource, ...] = ()
    system: str | None = None


def open_image(source: ImageSource, *, max_pixels: int = MAX_IMAGE_PIXELS) -> Image.Image:
    """Decoded RGB image, upright as its EXIF data say; 16-bit greys are scaled to 8 bits.

    Raises DataError where it is missing, not an image, damaged, larger than `max_pixels`, or holds numbers of which the
    file does not tell what is white (float and 32-bit TIFFs).
    """
    if isinstance(source, Image.Image):
        return _upright_rgb(source, "an image in memory")
    try:
        if not source.is_file():
            raise DataError(f"{source}: no such image; check the image folder and the file name in the data file")
        with warnings.catch_warnings():
            # PIL only warns about a decompression bomb; the bound below is ours and is an error
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise DataError(
                        f"{source}: the image has {width} x {height} pixels, more than the bound of {max_pixels}; "
                        "scale it down or leave it out"
                    )
                return _upright_rgb(image, str(source))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{source}: cannot be read as an image ({error}); replace the file or leave it out") from error


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    """As Transformers' `load_image`, but for what its `convert` would clip to white: greys of more than 8 bits."""
    mode = image.mode
    is_16_bit = mode.startswith("I;16") or (mode == "I" and image.format == "PPM")
    if mode in ("I", "F") and not is_16_bit:
        raise DataError(
            f"{name}: holds {'float' if mode == 'F' else '32-bit'} values, and nothing says which of them is white; "
            "scale them to 0 to 255 and save the image with 8 bits"
        )
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if is_16_bit:
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")
