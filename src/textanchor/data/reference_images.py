"""Unlabelled images that an anchor is fitted on: of tasks of ours, in a folder, or with questions in a data file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from textanchor.data.folder import read_items
from textanchor.data.items import ImageSource, Item, open_image
from textanchor.data.tasks import load_items
from textanchor.errors import ConfigError, DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
NUM_PROBE_IMAGES = 8
"""Further reference images, on which the audit measures the function leak: the anchor is not fitted on them."""


@dataclass(frozen=True, kw_only=True)
class ReferenceImages:
    """Unlabelled images like those that the model is to stay good at."""

    num_images: int
    """How many the anchor is fitted on, where it needs images; the 8 after them measure the function leak."""
    task: str | None = None
    """A task of textanchor's own, whose validation split is used; give this, tasks, path or folder."""
    tasks: tuple[str, ...] = ()
    """Several of them, in turn."""
    path: Path | None = None
    """A data file with questions about images, or its folder, as for `evaluate`: rows of the split train, in order,
    with images relative to the file. Their answers are not used."""
    folder: Path | None = None
    """A folder of images, taken in the order of their names."""
    question: str | None = None
    """What basis reference_sensitivity and language_anchor: text_and_images ask about each image of a folder; a task
    has questions of its own."""

    def __post_init__(self) -> None:
        if self.folder is None and self.question is not None:
            raise ConfigError(
                "question has no effect beside task, tasks and path, whose items have questions of their own; remove it"
            )
        if (self.task is not None) + bool(self.tasks) + (self.path is not None) + (self.folder is not None) != 1:
            raise ConfigError("give exactly one of task, tasks, path and folder for the reference images")
        if self.num_images < 1:
            raise ConfigError(f"num_images must be at least 1, found {self.num_images}")

    def for_anchor(self) -> list[Image.Image]:
        """The images that the anchor is fitted on; DataError where there are too few."""
        return [open_image(source) for source in self._sources()[: self.num_images]]

    def questions(self) -> list[str]:
        """A question about each image that the anchor is fitted on; DataError where there are too few images."""
        if self.folder is not None:
            return [self.question or ""] * self.num_images
        return [item.question for item in self._items()[: self.num_images]]

    def for_probe(self) -> list[Image.Image]:
        """The images behind them; DataError where there are too few."""
        return [open_image(source) for source in self._sources()[self.num_images :]]

    def _sources(self) -> Sequence[ImageSource]:
        number = self.num_images + NUM_PROBE_IMAGES
        if self.folder is None:
            sources: Sequence[ImageSource] = [item.image for item in self._items() if item.image is not None]
        else:
            if not self.folder.is_dir():
                raise DataError(f"{self.folder}: no such folder of reference images; check method.reference.folder")
            sources = [file for file in sorted(self.folder.iterdir()) if file.suffix.lower() in IMAGE_SUFFIXES][:number]
        if len(sources) < number:
            raise DataError(
                f"{self.folder or self.path or ', '.join(self._tasks)}: {len(sources)} reference images, but "
                f"num_images={self.num_images} and {NUM_PROBE_IMAGES} to measure with need {number}; add "
                "images or lower num_images"
            )
        return sources

    @property
    def _tasks(self) -> tuple[str, ...]:
        return self.tasks if self.task is None else (self.task,)

    def _items(self) -> list[Item]:
        """Of the tasks in turn, or of the file."""
        number = self.num_images + NUM_PROBE_IMAGES
        if self.path is not None:
            return [item for item in read_items(self.path, split="train") if item.image is not None][:number]
        rows = [load_items(task, split="validation", num_items=number) for task in self._tasks]
        items = [rows[place % len(rows)][place // len(rows)] for place in range(number)]
        return [item for item in items if item.image is not None]
