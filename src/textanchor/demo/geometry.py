"""Where projected visual tokens sit in text space: their energy in the text's own directions, and their length.

Shape legend: N tokens, D width of text space, K directions.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from textanchor.data.items import Item
from textanchor.evaluation.scoring.images import ImageProjector, TowerCache
from textanchor.evaluation.suite import image_hash, measuring
from textanchor.holds import Anchor
from textanchor.spectral import output_basis
from textanchor.vlm.parts import find_parts

KS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 576)


class TextSpace:
    """Directions of the text embeddings of the model before tuning, by falling energy, the mean first."""

    def __init__(self, anchor: Anchor):
        basis = output_basis(anchor["text_embedding"])
        self.directions_DK = basis.directions_DK
        self.spectrum = (basis.energies_K / basis.energies_K.sum()).tolist()
        self.ks = [k for k in KS if k <= self.directions_DK.shape[1]]

    def energy(self, tokens_ND: Tensor) -> list[float]:
        """Share of the tokens' energy in the first k directions, for every k of `ks`; each token counts the same."""
        unit_ND = nn.functional.normalize(tokens_ND.to(self.directions_DK), dim=-1)
        cumulative_K = (unit_ND @ self.directions_DK).square().mean(dim=0).cumsum(dim=0)
        return [min(float(cumulative_K[k - 1]), 1.0) for k in self.ks]

    def random(self) -> list[float]:
        """What any fixed direction of a random token would give: k / D."""
        return [k / self.directions_DK.shape[0] for k in self.ks]


def visual_tokens(model: nn.Module, processor: Any, items: Sequence[Item], cache: TowerCache) -> Tensor:
    """(N, D) projected tokens of the items' images, of a plain model or one wrapped by PEFT."""
    shown = {image_hash(item.image): item.image for item in items if item.image is not None}
    with measuring(model):
        projected = ImageProjector(model, processor, cache).project(shown)
    return torch.cat([projected[name].states_ND for name in shown])


def token_norms(model: nn.Module, visual_ND: Tensor) -> dict[str, float]:
    """Mean length of the visual tokens and of the rows of the text embedding."""
    parts = find_parts(model)
    embedding_VD = parts.module(parts.input_embedding).get_parameter("weight").detach()
    return {
        "visual_token_norm": float(visual_ND.norm(dim=-1).mean()),
        "text_token_norm": float(embedding_VD.norm(dim=-1).mean()),
    }
