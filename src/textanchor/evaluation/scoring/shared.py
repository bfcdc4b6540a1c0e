"""Candidate log-likelihoods with one row for each image: its tokens, all questions about it and all their answers.

Shape legend: B rows, L nodes of the longest row, S scored positions, D width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from textanchor.data.items import ImageSource, open_image
from textanchor.errors import ModelError
from textanchor.evaluation.scoring.images import ROW_BY_ROW, ImageProjector, ProjectedImage, expanded
from textanchor.evaluation.scoring.prompting import EncodedItem
from textanchor.evaluation.scoring.token_tree import TokenTree, tree_states
from textanchor.evaluation.suite import EvaluationOptions, image_hash
from textanchor.vlm.chat import process
from textanchor.vlm.names import unwrapped
from textanchor.vlm.precision import Format, computing_in

IMAGES_AT_ONCE = 128
"""Bounds the memory for projected images; rows are sorted by length among them."""
ROW_NODES = 1024
"""A row with more nodes is split: attention over a row grows with the square of its length."""

LIKE_LENGTH = 0.85
"""Least length of a row as a share of the longest of its batch: more passes cost less than more padding."""


class Reading(NamedTuple):
    """The logit of `token` after `node` is part of the answer number `candidate` of item number `item`."""

    item: int
    candidate: int
    node: int
    token: int


@dataclass
class _Row:
    tree: TokenTree = field(default_factory=TokenTree)
    readings: list[Reading] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tree)


def score_shared(
    model: nn.Module, processor: Any, items: Sequence[EncodedItem], options: EvaluationOptions
) -> list[list[float]]:
    """Nats of each candidate of each item, for models without a `sharing_obstacle`."""
    nats = [[0.0] * len(item.continuations) for item in items]
    groups, sources = _by_image(items)
    projector = ImageProjector(model, processor, options.tower_cache) if sources else None
    names = list(groups)
    for start in range(0, len(names), IMAGES_AT_ONCE):
        chunk = names[start : start + IMAGES_AT_ONCE]
        if _taken(nats, items, [index for name in chunk for index in groups[name]], options):
            continue
        shown = {name: sources[name] for name in chunk if name is not None}
        images = projector.project(shown) if projector is not None else {}
        if images and start == 0:
            _check_expansion(processor, items[groups[next(iter(images))][0]], images)
        rows = [row for name in chunk for row in _rows(items, groups[name], images.get(name or ""), processor)]
        states = {name: image.states_ND for name, image in images.items()}
        for batch in _batches(rows, options.max_tokens):
            asked = list(dict.fromkeys(reading.item for row in batch for reading in row.readings))
            if _taken(nats, items, asked, options):
                continue
            for reading, value in _read(model, batch, states, options.precision):
                nats[reading.item][reading.candidate] += value
            options.keep(lambda asked=asked: {items[index].key: nats[index] for index in asked})
            options.finished(len(asked))
    return nats


def _taken(
    nats: list[list[float]], items: Sequence[EncodedItem], indices: Sequence[int], options: EvaluationOptions
) -> bool:
    """Whether the journal knew the nats of all these items, which are now filled in."""
    known = options.known(lambda: [items[index].key for index in indices])
    if known is None:
        return False
    for index, values in zip(indices, known, strict=True):
        nats[index] = values
    options.finished(len(indices))
    return True


def _by_image(items: Sequence[EncodedItem]) -> tuple[dict[str | None, list[int]], dict[str, ImageSource]]:
    """Indices of the items that show each image (None: no image), and the images, by their hash."""
    groups: dict[str | None, list[int]] = {}
    sources: dict[str, ImageSource] = {}
    for index, item in enumerate(items):
        name = None
        if item.image is not None:
            name = image_hash(item.image)
            sources.setdefault(name, item.image)
        groups.setdefault(name, []).append(index)
    return groups, sources


def _rows(
    items: Sequence[EncodedItem], indices: Sequence[int], image: ProjectedImage | None, processor: Any
) -> Iterator[_Row]:
    """The items as few rows; an item is never split."""
    row = _Row()
    for index in indices:
        context = expanded(items[index].context, image, processor)
        sequences = [[*context, *continuation[:-1]] for continuation in items[index].continuations]
        needed = len(context) + sum(len(continuation) - 1 for continuation in items[index].continuations)
        if len(row) and len(row) + needed > ROW_NODES:
            yield row
            row = _Row()
        for candidate, (sequence, continuation) in enumerate(zip(sequences, items[index].continuations, strict=True)):
            nodes = row.tree.add(sequence)[len(context) - 1 :]
            row.readings += [Reading(index, candidate, *pair) for pair in zip(nodes, continuation, strict=True)]
    yield row


def _batches(rows: Sequence[_Row], max_tokens: int) -> Iterator[list[_Row]]:
    """Rows of like length together, at most `max_tokens` with padding (or one row)."""
    batch: list[_Row] = []
    for row in sorted(rows, key=len, reverse=True):  # the first row of a batch is its longest
        too_many = (len(batch) + 1) * len(batch[0]) > max_tokens if batch else False
        if batch and (too_many or len(row) < LIKE_LENGTH * len(batch[0])):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _read(
    model: nn.Module, rows: Sequence[_Row], images: dict[str, Tensor], precision: Format
) -> Iterator[tuple[Reading, float]]:
    """Every reading of the rows with its nats."""
    plain: Any = unwrapped(model)
    with computing_in(precision, plain.device):
        states_BLD = tree_states(plain.get_decoder(), plain.get_input_embeddings(), [row.tree for row in rows], images)
    positions: dict[tuple[int, int], int] = {}
    readings = [(b, reading) for b, row in enumerate(rows) for reading in row.readings]
    where = [positions.setdefault((b, reading.node), len(positions)) for b, reading in readings]
    row_S, node_S = torch.tensor(list(positions), device=states_BLD.device).unbind(dim=1)
    head = plain.get_output_embeddings()
    # outside autocast: the head sees few positions, and eight bits of mantissa are too few for a logit
    logits_SV = head(states_BLD[row_S, node_S].to(head.weight.dtype)).float()
    log_total_S = logits_SV.logsumexp(dim=-1)
    where_R, token_R = torch.tensor([[w, r.token] for w, (_, r) in zip(where, readings, strict=True)]).unbind(dim=1)
    nats_R = log_total_S[where_R] - logits_SV[where_R, token_R]
    return zip((reading for _, reading in readings), nats_R.tolist(), strict=True)


def _check_expansion(processor: Any, item: EncodedItem, images: dict[str, ProjectedImage]) -> None:
    """The processor itself must give the tokens that we put together from the text's and the image's."""
    assert item.image is not None
    inputs = process(
        processor, text=[item.texts[0]], images=[[open_image(item.image)]], add_special_tokens=item.adds_special_tokens
    )
    image = next(iter(images.values()))
    ours = [
        t if isinstance(t, int) else None for t in expanded([*item.context, *item.continuations[0]], image, processor)
    ]
    theirs = inputs["input_ids"][0]
    if len(ours) != len(theirs) or any(a is not None and a != b for a, b in zip(ours, theirs, strict=True)):
        raise ModelError(
            f"{type(processor).__name__} writes an image into this prompt in another way than by itself, so questions "
            f"cannot share its tokens; {ROW_BY_ROW}"
        )
