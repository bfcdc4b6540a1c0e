"""Run a model over images, texts and captions, and keep what the measures need: moments, samples, means of pairs.

Shape legend: N tokens, P pairs of an image and its captions, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from textanchor.analysis.passes import ImageReceivers, Passes
from textanchor.analysis.states import PlaceStates, Streams, five_depths, place_of
from textanchor.data.captioned import CaptionedImage
from textanchor.evaluation.suite import measuring

TOWER, PROJECTED = "tower", "projected"
VISUAL, TEXT = "visual", "text"


@dataclass(frozen=True)
class Pairs:
    """Mean unit state of each image and of its captions, at the sampled depths."""

    image_ids: tuple[str, ...]
    visual_PD: Mapping[int, Tensor]
    text_PD: Mapping[int, Tensor]


@dataclass(frozen=True)
class Gathered:
    """Everything that was kept of one model on one set of images and texts."""

    num_layers: int
    depths: tuple[int, ...]
    """The sampled ones; places at all depths have moments."""
    places: Mapping[str, PlaceStates]
    pairs: Pairs | None
    """None where no image has captions."""


def gather(
    passes: Passes, images: Sequence[CaptionedImage], texts: Sequence[str], *, max_text_tokens: int, seed: int
) -> Gathered:
    """One pass over images, one over texts, one over the captions of the images that have any."""
    depths = five_depths(passes.num_layers)
    means = {VISUAL: _Means(depths), TEXT: _Means(depths)}
    with measuring(passes.parts.model):
        places = {
            **_image_places(passes, images, means[VISUAL], depths, seed),
            **_text_places(passes, texts, max_text_tokens, depths, seed),
        }
        captioned = [index for index, image in enumerate(images) if image.captions]
        if captioned:
            captions = [" ".join(images[index].captions) for index in captioned]
            passes.run_texts(captions, means[TEXT].add_text, max_tokens=max_text_tokens, depths=depths)
    pairs = None
    if captioned:
        pairs = Pairs(
            tuple(images[index].id for index in captioned),
            means[VISUAL].tables(captioned),
            means[TEXT].tables(range(len(captioned))),
        )
    return Gathered(passes.num_layers, depths, places, pairs)


def _image_places(
    passes: Passes, images: Sequence[CaptionedImage], means: "_Means", depths: Sequence[int], seed: int
) -> Mapping[str, PlaceStates]:
    sampled = frozenset({TOWER, PROJECTED, *(place_of(VISUAL, depth) for depth in depths)})
    streams = Streams(len(images), sampled=sampled, seed=seed)

    def at_depth(depth: int, index: int, states_ND: Tensor) -> None:
        streams.add(place_of(VISUAL, depth), index, states_ND)
        means.add(depth, index, states_ND)

    receivers = ImageReceivers(
        at_depth=at_depth,
        tower=lambda index, states_ND: streams.add(TOWER, index, states_ND),
        projected=lambda index, states_ND: streams.add(PROJECTED, index, states_ND),
    )
    passes.run_images((image.image for image in images), receivers)
    return streams.states()


def _text_places(
    passes: Passes, texts: Sequence[str], max_tokens: int, depths: Sequence[int], seed: int
) -> Mapping[str, PlaceStates]:
    streams = Streams(len(texts), sampled=frozenset(place_of(TEXT, depth) for depth in depths), seed=seed)
    passes.run_texts(
        texts,
        lambda depth, index, states_ND, ids_N: streams.add(place_of(TEXT, depth), index, states_ND, ids_N),
        max_tokens=max_tokens,
    )
    return streams.states()


class _Means:
    """Mean of each group's states at length 1, because a decoder layer reads its inputs through a norm."""

    def __init__(self, depths: Sequence[int]):
        self.by_depth: dict[int, dict[int, Tensor]] = {depth: {} for depth in depths}

    def add(self, depth: int, index: int, states_ND: Tensor) -> None:
        if depth in self.by_depth:
            unit_ND = torch.nn.functional.normalize(states_ND.double(), dim=1)
            self.by_depth[depth][index] = unit_ND.mean(dim=0).cpu()

    def add_text(self, depth: int, index: int, states_ND: Tensor, ids_N: Tensor) -> None:
        self.add(depth, index, states_ND)

    def tables(self, indices: Sequence[int] | range) -> dict[int, Tensor]:
        return {depth: torch.stack([means[i] for i in indices]) for depth, means in self.by_depth.items()}
