"""Token sequences that begin alike as one row, in which every shared beginning is computed once.

Notable:
- a node attends to itself and its ancestors, and its position is its depth: it gets the state that it would get in its
  own sequence (tree attention; SpecInfer, arXiv 2305.09781);
- all questions about an image share its tokens, all candidate answers share their question, and equal prompts are one.

Shape legend: B rows, L nodes of the longest row, D width, N tokens of one image.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class ImageToken(NamedTuple):
    """Token number `index` of an image."""

    image: str
    index: int


Token = int | ImageToken


class TokenTree:
    """A row of nodes, parents before children; node i holds `tokens[i]` and follows node `parents[i]` (-1: none)."""

    def __init__(self) -> None:
        self.tokens: list[Token] = []
        self.parents: list[int] = []
        self.depths: list[int] = []
        self._children: dict[tuple[int, Token], int] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, sequence: Sequence[Token]) -> list[int]:
        """The node of each token of the sequence; nodes that earlier sequences made are used again."""
        nodes, parent = [], -1
        for depth, token in enumerate(sequence):
            node = self._children.get((parent, token))
            if node is None:
                node = self._children[parent, token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(parent)
                self.depths.append(depth)
            nodes.append(node)
            parent = node
        return nodes


def visible(trees: Sequence[TokenTree]) -> Tensor:
    """(B, L, L) bool: whether the node of a row attends to a node; padding attends to itself alone."""
    length = max(map(len, trees))
    visible_BLL = torch.eye(length, dtype=torch.bool).repeat(len(trees), 1, 1)
    for mask_LL, tree in zip(visible_BLL.numpy(), trees, strict=True):
        for node, parent in enumerate(tree.parents):
            if parent >= 0:
                mask_LL[node] |= mask_LL[parent]
    return visible_BLL


def tree_states(decoder: Any, embedding: nn.Module, trees: Sequence[TokenTree], images: Mapping[str, Tensor]) -> Tensor:
    """(B, L, D) last hidden states of a plain causal decoder; `images` gives the (N, D) projected tokens of each image.

    The decoder must take a 4-D attention mask and position ids (Transformers' sdpa or eager attention).
    """
    device = next(embedding.parameters()).device
    length = max(map(len, trees))
    ids_BL = torch.zeros(len(trees), length, dtype=torch.long)
    positions_BL = torch.zeros_like(ids_BL)
    for row, tree in enumerate(trees):
        ids_BL[row, : len(tree)] = torch.tensor([0 if isinstance(t, ImageToken) else t for t in tree.tokens])
        positions_BL[row, : len(tree)] = torch.tensor(tree.depths)
    embeddings_BLD = embedding(ids_BL.to(device))
    for row, tree in enumerate(trees):
        shown = [(node, token) for node, token in enumerate(tree.tokens) if isinstance(token, ImageToken)]
        if shown:
            states = torch.stack([images[token.image][token.index] for _, token in shown])
            embeddings_BLD[row, [node for node, _ in shown]] = states.to(embeddings_BLD)
    visible_B1LL = visible(trees)[:, None].to(device)
    if decoder.config._attn_implementation == "eager":  # adds its mask to the scores
        hidden = torch.finfo(embeddings_BLD.dtype).min
        visible_B1LL = torch.zeros_like(visible_B1LL, dtype=embeddings_BLD.dtype).masked_fill(~visible_B1LL, hidden)
    outputs = decoder(
        inputs_embeds=embeddings_BLD,
        attention_mask=visible_B1LL,
        position_ids=positions_BL.to(device),
        use_cache=False,
    )
    return outputs.last_hidden_state
