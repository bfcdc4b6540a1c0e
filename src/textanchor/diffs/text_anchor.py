"""The text anchor from the embedding alone, and how much of an update is written into its top directions.

Rows of the input embedding, each brought to norm 1, weighted by how often given texts use their token; without texts
each counts once. No forward pass is needed.

Shape legend: V tokens, D width of text space, K directions.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from textanchor.diffs.checkpoint import block_ranges
from textanchor.diffs.compare import Source
from textanchor.errors import DataError, HoldError, ModelError
from textanchor.spectral import Moments, MomentsStream, output_basis

SHARES = (0.01, 0.05, 0.1)
"""Shares of the D directions for which shares of the update are told."""
ROWS_PER_DIRECTION = 2
"""Without texts about 2 D rows are counted, evenly spaced: sums over all of 150,000 would cost more than the rest."""
ROWS_AT_A_TIME = 4096

LARGEST_WHOLE = 1024
"""Widths above this get their leading directions by subspace iteration."""
NUM_ITERATIONS = 8


@dataclass(frozen=True, eq=False)
class TextAnchor:
    """Top directions of text space, largest energy first after the mean."""

    directions_DK: Tensor
    source: str
    """What was counted, for the report."""

    @property
    def width(self) -> int:
        """Width D of text space."""
        return self.directions_DK.shape[0]

    @property
    def counts(self) -> tuple[int, ...]:
        """The numbers of directions for which shares are told; the last is all that are kept."""
        return counts_of(self.width)

    def shares(self, energies_K: Tensor, total: float) -> tuple[float, ...]:
        """Share of an update's energy in the first k directions, for each k of `counts`."""
        return tuple(min(float(energies_K[:k].sum()) / total, 1.0) for k in self.counts)


def counts_of(width: int) -> tuple[int, ...]:
    """Numbers of directions that are SHARES of `width`, each at least 1, each once."""
    return tuple(sorted({max(1, round(share * width)) for share in SHARES}))


def fit_text_anchor(embedding: Source, token_counts: Counter[int] | None = None) -> TextAnchor:
    """Anchor from the rows of an input embedding (V, D); ModelError where they are not finite."""
    stored = embedding.stored
    num_tokens, width = stored.shape
    if token_counts is None:
        step = max(1, num_tokens // (ROWS_PER_DIRECTION * width))
        counts = dict.fromkeys(range(0, num_tokens, step), 1)
        source = f"{len(counts):,} of {num_tokens:,} embedding rows, each counted once"
    else:
        counts = {token: count for token, count in token_counts.items() if token < num_tokens}
        source = f"{len(counts):,} embedding rows, weighted by {sum(counts.values()):,} tokens of the texts"
    stream = MomentsStream(width, source="the base's input embedding")
    try:
        for rows_ND, tokens in _chosen_rows(embedding, counts):
            stream.add(rows_ND, weights_N=torch.tensor([counts[token] for token in tokens]))
        kept = counts_of(width)[-1]
        directions_DK = leading_directions(stream.moments(), kept)
    except HoldError as error:
        raise ModelError(f"no text anchor can be made of the base's input embedding: {error}") from error
    return TextAnchor(directions_DK.float().contiguous(), source)


def _chosen_rows(embedding: Source, counts: Mapping[int, int]) -> Iterator[tuple[Tensor, list[int]]]:
    """Rows of the tokens in `counts` and these tokens, many at a time: each addition passes over all D x D sums."""
    rows, tokens = [], []
    for start, stop in block_ranges(embedding.stored):
        chosen = [token for token in range(start, stop) if token in counts]
        if chosen:
            rows.append(embedding.rows(start, stop)[[token - start for token in chosen]])
            tokens += chosen
        if tokens and (len(tokens) >= ROWS_AT_A_TIME or stop == embedding.stored.num_rows):
            yield torch.cat(rows), tokens
            rows, tokens = [], []


def leading_directions(moments: Moments, kept: int) -> Tensor:
    """The first `kept` directions of `output_basis`, (D, K); where D is large by subspace iteration.

    A whole decomposition of width 3584 takes longer than reading the checkpoint; those in the middle of the spectrum,
    where energies are nearly equal, may come out mixed with their neighbours.
    """
    if moments.width <= LARGEST_WHOLE:
        return output_basis(moments).directions_DK[:, :kept]
    mean_D1 = (moments.mean_D / torch.linalg.vector_norm(moments.mean_D))[:, None].float()
    covariance_DD = moments.covariance_DD.float()
    width = min(2 * kept, moments.width)
    generator = torch.Generator().manual_seed(0)
    space_DS = torch.randn(moments.width, width, generator=generator)
    for _ in range(NUM_ITERATIONS):
        space_DS = covariance_DD @ space_DS
        space_DS, _ = torch.linalg.qr(space_DS - mean_D1 @ (mean_D1.T @ space_DS))
    _, vectors_SS = torch.linalg.eigh(space_DS.T @ covariance_DD @ space_DS)
    return torch.cat([mean_D1, space_DS @ vectors_SS.flip(1)[:, : kept - 1]], dim=1)


def count_tokens(tokenizer: Any, texts: Sequence[str]) -> Counter[int]:
    """How often texts use each token; DataError where they have none."""
    counts = Counter(token for text in texts for token in tokenizer(text)["input_ids"])
    if not counts:
        raise DataError("the texts have no tokens; give texts as the model is to keep its language on")
    return counts
