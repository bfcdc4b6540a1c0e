"""Many questions about one image in one sequence: a shared prefix, then branches that do not see each other.

One forward pass gives every branch exactly the logits it would have as a sequence of its own (same positions, same
attention), while image and prefix are computed once; a branch cannot read an answer in another branch.
Shape legend: B images, L packed length, T answer tokens of the batch, V vocabulary, D hidden width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

Branch = tuple[list[int], list[int]]
"""Token ids of what is given and of what is predicted."""


@dataclass(frozen=True)
class BranchBatch:
    """Packed sequences; `targets_T` are predicted from the packed positions `sources_T` of the rows `rows_T`."""

    input_ids_BL: Tensor
    position_ids_BL: Tensor
    visible_B1LL: Tensor
    rows_T: Tensor
    sources_T: Tensor
    targets_T: Tensor
    branches_T: Tensor
    """Number of the branch, counted through the batch, that a target belongs to."""


def pack(prefixes: list[list[int]], branches: list[list[Branch]], pad_id: int) -> BranchBatch:
    """Row b holds `prefixes[b]` and then all of `branches[b]`; every branch continues the positions of the prefix."""
    lengths = [
        len(prefix) + sum(len(given) + len(answer) for given, answer in row)
        for prefix, row in zip(prefixes, branches, strict=True)
    ]
    batch, longest = len(prefixes), max(lengths)
    input_ids = torch.full((batch, longest), pad_id)
    positions = torch.zeros((batch, longest), dtype=torch.long)
    visible = torch.zeros((batch, 1, longest, longest), dtype=torch.bool)
    visible[:, 0] = torch.eye(longest, dtype=torch.bool)  # padding must see something, or its softmax is NaN
    rows, sources, targets, numbers = [], [], [], []
    number = 0
    for b, (prefix, row) in enumerate(zip(prefixes, branches, strict=True)):
        width = len(prefix)
        input_ids[b, :width] = torch.tensor(prefix)
        positions[b, :width] = torch.arange(width)
        visible[b, 0, :width, :width] = torch.ones(width, width).tril().bool()
        start = width
        for given, answer in row:
            tokens = given + answer
            stop = start + len(tokens)
            input_ids[b, start:stop] = torch.tensor(tokens)
            positions[b, start:stop] = torch.arange(width, width + len(tokens))
            visible[b, 0, start:stop, :width] = True
            visible[b, 0, start:stop, start:stop] = torch.ones(len(tokens), len(tokens)).tril().bool()
            first = start + len(given) - 1
            rows += [b] * len(answer)
            sources += range(first, first + len(answer))
            targets += answer
            numbers += [number] * len(answer)
            number, start = number + 1, stop
    return BranchBatch(
        input_ids,
        positions,
        visible,
        *(torch.tensor(values) for values in (rows, sources, targets, numbers)),
    )


def answer_logits(model, batch: BranchBatch, visual_BND: Tensor) -> Tensor:
    """(T, V) logits of the answer tokens; `visual_BND` are the projected tokens, in the place of the image tokens."""
    embeds_BLD = model.get_input_embeddings()(batch.input_ids_BL)
    is_image_BL = batch.input_ids_BL == model.config.image_token_id
    embeds_BLD = embeds_BLD.masked_scatter(is_image_BL[..., None], visual_BND.to(embeds_BLD.dtype))
    hidden_BLD = model.model.language_model(
        inputs_embeds=embeds_BLD,
        attention_mask=additive_mask(batch.visible_B1LL, embeds_BLD.dtype),
        position_ids=batch.position_ids_BL,
        use_cache=False,
    ).last_hidden_state
    return model.lm_head(hidden_BLD[batch.rows_T, batch.sources_T])


def additive_mask(visible_B1LL: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a position is visible, the most negative number of the dtype elsewhere."""
    hidden = torch.zeros(visible_B1LL.shape, dtype=dtype)
    return hidden.masked_fill(~visible_B1LL, torch.finfo(dtype).min)
