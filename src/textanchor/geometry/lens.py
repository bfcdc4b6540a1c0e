"""Which text tokens visual states look like: their nearest rows in an embedding, unembedding or contextual table.

Shape legend: N visual states, V rows of the table, D width, K nearest.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from textanchor.errors import DataError
from textanchor.geometry.inputs import as_states, require_same_width, unit_rows

STATES_AT_ONCE = 256


@dataclass(frozen=True)
class NearestTokens:
    """The K best rows of the table for every visual state, best first."""

    scores_NK: Tensor
    """Cosines, or logits."""
    rows_NK: Tensor
    """Rows of the table; for the embedding and unembedding these are token ids."""


def nearest_text_tokens(
    visual_ND: Tensor, table_VD: Tensor, num_nearest: int, *, score: Literal["cosine", "logit"] = "cosine"
) -> NearestTokens:
    """Nearest rows of a table of text vectors, by cosine or by inner product; O(N V D), 256 states at a time.

    Embedding lens: the input embedding, "cosine". Logit lens (nostalgebraist 2020): the unembedding and "logit", for
    states after the final norm, which the caller applies. Contextual lens (LatentLens, arXiv 2602.00462): hidden states
    of texts at some layer, "cosine"; the caller knows which token each row is of. DataError where widths differ, the
    table has fewer than K rows, or a cosine is asked for of all zeros.
    """
    visual_ND, table_VD = as_states(visual_ND, "visual"), as_states(table_VD, "table")
    require_same_width(visual_ND.shape[1], table_VD.shape[1])
    if not 1 <= num_nearest <= len(table_VD):
        raise DataError(f"asked for the {num_nearest} nearest of {len(table_VD)} rows; ask for 1 to {len(table_VD)}")
    if score == "cosine":
        visual_ND, table_VD = unit_rows(visual_ND, "visual"), unit_rows(table_VD, "table")
    best = [torch.topk(block_BD @ table_VD.T, num_nearest, dim=1) for block_BD in visual_ND.split(STATES_AT_ONCE)]
    return NearestTokens(torch.cat([b.values for b in best]), torch.cat([b.indices for b in best]))
