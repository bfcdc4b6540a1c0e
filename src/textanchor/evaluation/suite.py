"""What a suite is: a fixed, hashed set of items and a way to score a model on them."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from textanchor.data.items import ImageSource, Item, open_image
from textanchor.files import sha256_of_json
from textanchor.records import Score

if TYPE_CHECKING:
    from torch import nn

    from textanchor.evaluation.images import TowerCache


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """How to compute, not what: apart from `autocast`, no option changes a score by more than rounding."""

    autocast: bool = False
    """Language model in bfloat16 where scores are read from one forward pass; logits of closed answers stay float32.

    Faster on processors that compute in bfloat16; one answer of the embedded model moved by up to .23 nats, so compare
    only scores that were both computed with it or both without.
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

    def finished(self, num_items: int) -> None:
        """Tell whoever shows the progress."""
        if self.advance is not None:
            self.advance(num_items)


class AbstractSuite(ABC):
    """A named set of items that gives `Score` rows for a model; implementations are final dataclasses."""

    name: str
    version: ClassVar[str]
    """Raised whenever items, prompts or scoring change, so that scores of two versions are never compared."""

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


def suite_hash(suite: AbstractSuite) -> str:
    """SHA-256 of name, version, data and settings: equal hashes ask a model the same."""
    return sha256_of_json([suite.name, suite.version, suite.data_hash, suite.settings])


def items_hash(items: Sequence[Item]) -> str:
    """SHA-256 of the items with the content of their images, in order."""
    rows = [[i.id, i.task, i.question, i.answer, i.choices, i.objects, i.image and image_hash(i.image)] for i in items]
    return sha256_of_json(rows)


def image_hash(source: ImageSource) -> str:
    """SHA-256 of size and RGB pixels, so that equal images are one image wherever they come from."""
    image = open_image(source)
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()


@contextmanager
def measuring(model: "nn.Module") -> Iterator[None]:
    """Eval mode without gradients; afterwards every module is in the mode in which it was."""
    import torch

    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
