"""Unlabelled images that an anchor is fitted on: of tasks of ours, in a folder, or with questions in a data file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from textanchor.bounds import require_range
from textanchor.data.folder import read_items
from textanchor.data.items import Item, open_image
from textanchor.data.tasks import load_items
from textanchor.errors import ConfigError, DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
NUM_PROBE_IMAGES = 8
"""Further reference images, on which the audit measures the function leak: the anchor is not fitted on them."""


@dataclass(frozen=True, kw_only=True)
class ReferenceImages:
    """Unlabelled images like those that the model is to stay good at."""

    num_images: int
    """How many to take; a hold's function leak is measured on the 8 after them."""
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
    """What is asked about each image of a folder, where images are asked about; tasks and files have questions of
    their own."""

    def __post_init__(self) -> None:
        if self.folder is None and self.question is not None:
            raise ConfigError(
                "question has no effect beside task, tasks and path, whose items have questions of their own; remove it"
            )
        if (self.task is not None) + bool(self.tasks) + (self.path is not None) + (self.folder is not None) != 1:
            raise ConfigError("give exactly one of task, tasks, path and folder for the reference images")
        require_range("num_images", self.num_images, least=1)

    def for_anchor(self) -> list[Image.Image]:
        """The images that the anchor is fitted on; DataError where there are too few."""
        return _opened(self._items(num_probe=NUM_PROBE_IMAGES)[: self.num_images])

    def for_probe(self) -> list[Image.Image]:
        """The images behind them; DataError where there are too few."""
        return _opened(self._items(num_probe=NUM_PROBE_IMAGES)[self.num_images :])

    def questions(self) -> list[Item]:
        """Each of the images with its question, without those of the probe; DataError where there are too few."""
        return self._items(num_probe=0)[: self.num_images]

    def _items(self, *, num_probe: int) -> list[Item]:
        number = self.num_images + NUM_PROBE_IMAGES
        items = (self._found(number) if self.folder is None else self._in_folder(self.folder))[:number]
        if len(items) < self.num_images + num_probe:
            more = f" and {num_probe} to measure with need {number}" if num_probe else ""
            raise DataError(
                f"{self.folder or self.path or ', '.join(self._tasks)}: {len(items)} reference images, but "
                f"num_images={self.num_images}{more}; add images or lower num_images"
            )
        return items

    @property
    def _tasks(self) -> tuple[str, ...]:
        return self.tasks if self.task is None else (self.task,)

    def _found(self, number: int) -> list[Item]:
        """Of the tasks in turn, or of the file."""
        if self.path is not None:
            return [item for item in read_items(self.path, split="train") if item.image is not None]
        rows = [load_items(task, split="validation", num_items=number) for task in self._tasks]
        items = [rows[place % len(rows)][place // len(rows)] for place in range(number)]
        return [item for item in items if item.image is not None]

    def _in_folder(self, folder: Path) -> list[Item]:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder of reference images; check method.reference.folder")
        files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in IMAGE_SUFFIXES]
        return [
            Item(id=file.name, task="", question=self.question or "", answer="", image=file, image_id=file.name)
            for file in files
        ]


def _opened(items: Sequence[Item]) -> list[Image.Image]:
    return [open_image(item.image) for item in items if item.image is not None]
