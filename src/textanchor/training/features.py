"""The outputs of a frozen vision tower, computed once for each distinct image.

How it is fed: the model's own forward pass runs unchanged, but the images of an example are replaced by images of one
constant value, the number under which their features are kept, and the tower's `forward` by a look-up of that number.
So whatever a family does around its tower (choice of layers, cutting into crops, order) happens as always.
A tower that takes more than pixels, or gives other than one row for each image, is refused.

Shape legend: N images (crops) in one call of the tower, H/W height and width.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers.utils.generic import ModelOutput

from textanchor.errors import ModelError
from textanchor.training.collate import joined
from textanchor.training.sequences import Example
from textanchor.vlm.hashing import tensors_hash
from textanchor.vlm.names import is_within, unwrapped
from textanchor.vlm.parts import VLMParts
from textanchor.vlm.passes import run_images
from textanchor.vlm.precision import Format, computing_in

PIXELS = "pixel_values"
BATCH_SIZE = 8
"""Conversations whose images pass the tower together."""
WAY_OUT = "set training.cache_features: false"
IDLE_KEYWORDS = {"use_cache", "return_dict"}
"""Keywords that families pass on to the tower and that do not change its features."""


@dataclass(frozen=True)
class _Leaf:
    """Place of a tensor in the tower's output."""

    index: int


class FeatureStore:
    """Outputs of a frozen vision tower by image; in a store given to several runs, each image passes it once."""

    def __init__(self) -> None:
        self.tower_hash = ""
        self.forget()

    def forget(self) -> None:
        """Drop everything."""
        self.numbers: dict[bytes, int] = {}
        self.rows: list[list[Tensor]] = [[]]  # number 0 stays free: families drop images that are zero throughout
        self.structure: Any = None
        self.keywords: dict[str, Any] | None = None

    def __len__(self) -> int:
        return len(self.numbers)


class FeatureCache:
    """Features of every image that `index` has seen; `lookup()` puts them in the tower's place.

    A `store` of another tower, or of the same one computed in another precision, is emptied.
    """

    def __init__(self, parts: VLMParts, store: FeatureStore | None = None, precision: Format = "float32"):
        if any(is_within(path, parts.vision_tower) for path in parts.projector):
            raise ModelError(
                f"the projector of {type(unwrapped(parts.model)).__name__} lies inside its vision tower, so the "
                f"tower's outputs change as it is trained and cannot be kept; {WAY_OUT}"
            )
        self._parts = parts
        self._tower = parts.module(parts.vision_tower)
        self._device = next(self._tower.parameters()).device
        self._precision: Format = precision
        self._store = FeatureStore() if store is None else store
        tower_hash = tensors_hash([*parts.parameters_of("vision_tower").items(), *self._tower.named_buffers()])
        if self._store.tower_hash != f"{tower_hash} {precision}":
            self._store.forget()
            self._store.tower_hash = f"{tower_hash} {precision}"

    @torch.no_grad()
    def index(self, examples: Iterable[Example]) -> Iterator[Example]:
        """The examples with their images replaced by numbers, after the tower has run once on each new image."""
        self._tower.eval()
        examples = iter(examples)
        while batch := list(islice(examples, BATCH_SIZE)):
            seen = [example.visual_inputs for example in batch if example.visual_inputs]
            if seen:
                visual = {name: joined([inputs[name] for inputs in seen]).to(self._device) for name in seen[0]}
                if visual.get(PIXELS, torch.empty(0)).ndim < 4:
                    raise ModelError(f"the processor gives images as patches, which cannot be told apart; {WAY_OUT}")
                with self._tower_replaced(self._record), computing_in(self._precision, self._device):
                    run_images(self._parts, visual)
            yield from (self._numbered(example) for example in batch)

    @contextmanager
    def lookup(self) -> Iterator[None]:
        """Within it the model takes the images of indexed examples, and only those."""
        with self._tower_replaced(self._look_up):
            yield

    def _record(self, original: Callable[..., Any], pixels_N3HW: Tensor, keywords: dict[str, Any]) -> Any:
        store, keys = self._store, [_digest(image) for image in pixels_N3HW]
        new = {key: i for i, key in enumerate(keys) if key not in store.numbers}
        if new:
            leaves: list[Tensor] = []
            store.structure = _taken_apart(original(pixels_N3HW[list(new.values())], **keywords), leaves)
            if any(leaf.shape[:1] != (len(new),) for leaf in leaves):
                raise ModelError(f"the vision tower does not give one row for each image; {WAY_OUT}")
            for row, key in enumerate(new):
                store.numbers[key] = len(store.rows)
                store.rows.append([leaf[row].cpu().clone() for leaf in leaves])
        return self._output([store.numbers[key] for key in keys], pixels_N3HW.device)

    def _look_up(self, _: Callable[..., Any], pixels_N3HW: Tensor, keywords: dict[str, Any]) -> Any:
        return self._output(pixels_N3HW.flatten(1)[:, 0].round().long().tolist(), pixels_N3HW.device)

    def _output(self, numbers: Sequence[int], device: torch.device) -> Any:
        rows = zip(*(self._store.rows[number] for number in numbers), strict=True)
        return _put_together(self._store.structure, [torch.stack(leaf).to(device) for leaf in rows])

    @contextmanager
    def _tower_replaced(self, function: Callable[..., Any]) -> Iterator[None]:
        """Within it, calls of the tower go to `function(original forward, pixels, other keywords)`."""
        tower, original, was_replaced = self._tower, self._tower.forward, "forward" in vars(self._tower)

        def forward(*args: Any, **keywords: Any) -> Any:
            pixels = args[0] if args else keywords.pop(PIXELS)
            self._check_keywords(keywords)
            return function(original, pixels, keywords)

        tower.forward = forward
        try:
            yield
        finally:
            del tower.forward  # the class's own forward shows again
            if was_replaced:
                tower.forward = original

    def _check_keywords(self, keywords: dict[str, Any]) -> None:
        if any(isinstance(value, Tensor) for value in keywords.values()):
            raise ModelError(f"the vision tower takes tensors beside pixels ({', '.join(keywords)}); {WAY_OUT}")
        keywords = {name: value for name, value in keywords.items() if name not in IDLE_KEYWORDS}
        self._store.keywords = keywords if self._store.keywords is None else self._store.keywords
        if keywords != self._store.keywords:
            raise ModelError(
                f"the vision tower was called in two ways, {self._store.keywords} and {keywords}; {WAY_OUT}"
            )

    def _numbered(self, example: Example) -> Example:
        """Its images as constants of their shape (..., 3, H, W), without memory; unused padding stays zero."""
        if not example.visual_inputs:
            return example
        pixels = example.visual_inputs[PIXELS]
        numbers = [self._store.numbers.get(_digest(image), 0) for image in pixels.flatten(0, -4)]
        constant = torch.tensor(numbers, dtype=torch.float32).reshape(*pixels.shape[:-3], 1, 1, 1).expand(pixels.shape)
        return replace(example, visual_inputs={**example.visual_inputs, PIXELS: constant})


def _digest(image: Tensor) -> bytes:
    return hashlib.sha256(image.detach().float().cpu().contiguous().numpy().tobytes()).digest()


def _taken_apart(value: Any, leaves: list[Tensor]) -> Any:
    """`value` with each distinct tensor moved to `leaves` and a `_Leaf` in its place."""
    if isinstance(value, Tensor):
        known = next((i for i, leaf in enumerate(leaves) if leaf is value), None)
        if known is None:
            leaves.append(value)
        return _Leaf(len(leaves) - 1 if known is None else known)
    if isinstance(value, ModelOutput):
        return (type(value), {name: _taken_apart(entry, leaves) for name, entry in value.items()})
    if isinstance(value, tuple | list):
        return [_taken_apart(entry, leaves) for entry in value]
    if value is None:
        return None
    raise ModelError(f"the vision tower gives a {type(value).__name__}, which cannot be kept; {WAY_OUT}")


def _put_together(structure: Any, leaves: Sequence[Tensor]) -> Any:
    """What `_taken_apart` took apart, with other tensors."""
    if isinstance(structure, _Leaf):
        return leaves[structure.index]
    if isinstance(structure, tuple):
        kind, entries = structure
        return kind(**{name: _put_together(entry, leaves) for name, entry in entries.items()})
    if isinstance(structure, list):
        return tuple(_put_together(entry, leaves) for entry in structure)
    return None
