"""What a suite is: a fixed, hashed set of items and a way to score a model on them."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from PIL import Image

from textanchor.data.items import ImageSource, Item, open_image
from textanchor.errors import ConfigError
from textanchor.evaluation.results.kinds import TASK, Kind
from textanchor.files import sha256_of_json
from textanchor.records import Score

if TYPE_CHECKING:
    from torch import nn

    from textanchor.evaluation.journal import Journal
    from textanchor.evaluation.scoring.images import TowerCache
    from textanchor.vlm.precision import Format


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How to compute, not what: apart from `precision`, no option changes a score by more than rounding."""

    precision: "Format" = "float32"
    """bfloat16: the language model where scores are read from one forward pass; logits of closed answers stay float32.

    Faster on devices that compute in bfloat16 (`textanchor.vlm.precision` finds out); one answer of the embedded model
    moved by up to .23 nats, so compare only scores of one precision.
    """
    sharing: Literal["auto", "off"] = "auto"
    """Whether questions about one image share its tokens, where the model allows it (`sharing_obstacle`)."""
    max_tokens: int = 4096
    """Tokens of one forward pass over shared rows or text, padding included; one longer row is a pass of its own."""
    batch_size: int = 8
    """Rows of one forward pass without sharing, and answers generated side by side."""
    tower_cache: "TowerCache | None" = None
    """Give one to several evaluations of a run, so that images pass an unchanged tower only once."""
    advance: Callable[[int], None] | None = None
    """Called with the number of items that were finished since the last call."""
    journal: "Journal | None" = None
    """Where single results are kept and taken from; give one only to the suite and the model that it is of."""

    def finished(self, num_items: int) -> None:
        """Tell whoever shows the progress."""
        if self.advance is not None:
            self.advance(num_items)

    def known(self, keys: Callable[[], Sequence[str]]) -> list[Any] | None:
        """What the journal has of all the keys, which are asked for only where there is a journal."""
        return None if self.journal is None else self.journal.take(keys())

    def keep(self, entries: Callable[[], Mapping[str, Any]]) -> None:
        """Into the journal, where there is one."""
        if self.journal is not None:
            self.journal.keep(entries())


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    """What suites are made of, where they leave a choice; the first four are about the user's files."""

    split: str = "test"
    image_folder: Path | None = None
    """Where image paths begin; the folder of the data file unless given."""
    synonyms: Path | None = None
    """CHAIR's vocabulary, one object a line; `chair_synonyms.txt` in the folder, or else the objects' own names."""
    skip_malformed: bool = False
    """Leave malformed rows out and say so, in place of an error."""
    free_answers: bool = False
    """Have closed questions also answered freely, and the answers parsed."""


class AbstractSuite(ABC):
    """A named set of items that gives `Score` rows for a model; implementations are final dataclasses."""

    name: str
    version: ClassVar[str]
    """Raised whenever items, prompts or scoring change, so that scores of two versions are never compared."""
    malformed: tuple[str, ...]
    """Rows of the user's files that are no items, each with file, line and reason; none in what is drawn."""

    @property
    def kind(self) -> Kind:
        """What its rows amount to."""
        return TASK

    @property
    @abstractmethod
    def num_steps(self) -> int:
        """Number of items that `score` reports as finished in all."""

    @property
    @abstractmethod
    def data_hash(self) -> str:
        """SHA-256 of all items, pixels included."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What decides the scores beside the items, as plain values."""

    @abstractmethod
    def score(self, model: "nn.Module", processor: Any, options: EvaluationOptions) -> list[Score]:
        """Rows of all items; the model is put into eval mode and given back as it was."""


def require_places(suites: Sequence[AbstractSuite]) -> None:
    """Raise ConfigError where two suites have one name, or one place in the summary of an evaluation."""
    taken: dict[str, AbstractSuite] = {}
    for suite in suites:
        for place in (suite.name, suite.kind.only_one or suite.name):
            if (other := taken.setdefault(place, suite)) is not suite:
                raise ConfigError(
                    f"suites {other.name!r} and {suite.name!r} are two suites for {place} in one evaluation, whose "
                    "summary tells of one; evaluate them into two output folders"
                )


def suite_hash(suite: AbstractSuite) -> str:
    """SHA-256 of name, version, data and settings: equal hashes ask a model the same."""
    return sha256_of_json([suite.name, suite.version, suite.data_hash, suite.settings])


def items_hash(items: Sequence[Item]) -> str:
    """SHA-256 of the items with the content of their images, in order."""
    rows = [
        [
            *(i.id, i.task, i.question, i.answer, i.choices, i.objects, i.references, i.system),
            [[turn.question, turn.answer] for turn in i.history],
            i.image and image_hash(i.image),
        ]
        for i in items
    ]
    return sha256_of_json(rows)


def image_hash(source: ImageSource) -> str:
    """SHA-256 of size and RGB pixels, so that equal images are one image wherever they come from."""
    if isinstance(source, Path) and source.is_file():
        state = source.stat()
        return _file_hash(source, state.st_mtime_ns, state.st_size)
    return _pixels_hash(open_image(source))


@lru_cache(maxsize=65536)
def _file_hash(source: Path, modified: int, size: int) -> str:
    return _pixels_hash(open_image(source))


def _pixels_hash(image: Image.Image) -> str:
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()


@contextmanager
def measuring(model: "nn.Module") -> Iterator[None]:
    """Eval mode without gradients, float32 on a processor by its faster library; afterwards all is as it was."""
    import torch

    from textanchor.vlm.fast_linears import fast_linears
    from textanchor.vlm.modes import evaluating

    with evaluating(model), torch.inference_mode(), fast_linears(model):
        yield
