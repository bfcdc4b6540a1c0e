"""What one measurement is: model, images, texts, seed."""

from dataclasses import dataclass
from pathlib import Path

from textanchor.bounds import MOST_STEPS, require_range, require_seed

LEAST_IMAGES = 20
"""One image for each fold of the jackknife."""


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """Settings of `textanchor measure`."""

    model: str
    """`embedded`, a folder in Hugging Face format, or a hub id."""
    data: str
    """Folder with a data.jsonl, or `scenes` for drawn scenes."""
    num_images: int = 500
    """Images drawn from the data; all where there are fewer."""
    texts: Path | None = None
    """Texts that stand for text space: a .txt file with one on each line, or JSON rows with `text`; ours where it is
    left out."""
    num_texts: int = 256
    """Texts taken, from the first."""
    max_text_tokens: int = 32
    """Tokens of a text, and of an image's captions together, that are run."""
    gallery_images: int = 6
    """Images that are shown with a caption and the words their tokens read as; with 0 the output holds numbers only."""
    tuning_steps: int = 0
    """Steps of each of the two tunings behind "rigidity" and "who moves"; 0 leaves both claims out."""
    seed: int = 0
    """Seed of the images drawn, of samples, nulls and tunings."""

    def __post_init__(self) -> None:
        for name in ("num_images", "num_texts"):
            require_range(name, getattr(self, name), least=LEAST_IMAGES, why="one for each fold")
        require_range("tuning_steps", self.tuning_steps, least=0, most=MOST_STEPS)
        require_range("gallery_images", self.gallery_images, least=0)
        require_range("max_text_tokens", self.max_text_tokens, least=2, why="the first is not measured")
        require_seed(self.seed)
