"""Images as files hold them: turned, with more than 8 bits, of every mode; what cannot be read right is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image
from transformers.image_utils import load_image

from textanchor.data.items import open_image
from textanchor.errors import DataError

RAMP = (np.arange(1600, dtype=np.uint16) * 40).reshape(40, 40)
"""0 to 63,960 of 65,535."""


@pytest.mark.parametrize("name", ["grey.png", "grey.tiff", "grey.pgm", "big_endian.tiff"])
def test_16_bit_greys_keep_their_brightness(tmp_path: Path, name: str) -> None:
    image = Image.fromarray(RAMP)
    if name == "big_endian.tiff":
        image = Image.frombytes("I;16B", (40, 40), RAMP.astype(">u2").tobytes())
    image.save(tmp_path / name)
    opened = open_image(tmp_path / name)
    assert opened.mode == "RGB"
    assert np.abs(np.asarray(opened)[..., 0] - RAMP / 257).max() <= 0.5
    assert opened.tobytes() == open_image(Image.fromarray(RAMP)).tobytes(), "in memory as from a file"


@pytest.mark.parametrize("values", [np.linspace(0, 1, 64, dtype=np.float32), np.arange(64, dtype=np.int32)])
def test_values_without_a_white_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    image = Image.fromarray(values.reshape(8, 8))
    image.save(tmp_path / "values.tiff")
    for source in (tmp_path / "values.tiff", image):
        with pytest.raises(DataError, match="which of them is white; scale them"):
            open_image(source)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_an_image_is_turned_as_transformers_turns_it(tmp_path: Path, suffix: str, orientation: int) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(tmp_path / f"turned.{suffix}", exif=exif)
    theirs = load_image(str(tmp_path / f"turned.{suffix}"))
    assert open_image(tmp_path / f"turned.{suffix}").tobytes() == theirs.tobytes()
    assert theirs.size == ((40, 20) if orientation < 5 else (20, 40))
    with Image.open(tmp_path / f"turned.{suffix}") as opened:
        assert open_image(opened).tobytes() == theirs.tobytes()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_other_modes_are_those_of_transformers(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (9, 7, 3), dtype=np.uint8)).convert(mode)
    assert open_image(image).tobytes() == load_image(image).tobytes()
    if mode not in ("CMYK", "YCbCr", "HSV"):
        image.save(tmp_path / "a.png")
        assert open_image(tmp_path / "a.png").tobytes() == load_image(str(tmp_path / "a.png")).tobytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [("none.png", "no such image"), ("a" * 5000, "cannot be read as an image"), ("text.png", "cannot be read")],
)
def test_what_is_no_image_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=message):
        open_image(tmp_path / name)


def test_a_large_image_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (300, 200)).save(tmp_path / "large.png")
    with pytest.raises(DataError, match="300 x 200 pixels, more than the bound of 1000"):
        open_image(tmp_path / "large.png", max_pixels=1000)
