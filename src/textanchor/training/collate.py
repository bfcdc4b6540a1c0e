"""Examples to one batch: tokens padded on the right, images of all examples one after another.

Shape legend: B examples, L tokens of the longest one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from textanchor.training.sequences import IGNORED, Example


class Collator:
    """Makes a batch of `Example`s; those without images may stand among others."""

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """input_ids, attention_mask, labels and further token inputs as (B, L), and the visual inputs joined."""
        length = max(len(example.input_ids_L) for example in examples)

        def padded(tensors: Sequence[Tensor], value: int) -> Tensor:
            return torch.stack([pad(tensor_L, (0, length - len(tensor_L)), value=value) for tensor_L in tensors])

        batch = {
            "input_ids": padded([e.input_ids_L for e in examples], self.pad_token_id),
            "attention_mask": padded([torch.ones_like(e.input_ids_L) for e in examples], 0),
            "labels": padded([e.labels_L for e in examples], IGNORED),
        }
        for name in sorted({name for e in examples for name in e.token_inputs} - batch.keys()):
            batch[name] = padded([e.token_inputs.get(name, torch.zeros_like(e.input_ids_L)) for e in examples], 0)
        for name in sorted({name for e in examples for name in e.visual_inputs}):
            batch[name] = joined([e.visual_inputs[name] for e in examples if name in e.visual_inputs])
        return batch


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors one after another along dimension 0, their other dimensions padded with zeros to the largest."""
    if len({tensor.shape[1:] for tensor in tensors}) == 1:
        return torch.cat(list(tensors))
    largest = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]

    def grown(tensor: Tensor) -> Tensor:
        missing = [size - present for size, present in zip(largest, tensor.shape[1:], strict=True)]
        return pad(tensor, [amount for m in reversed(missing) for amount in (0, m)])

    return torch.cat([grown(tensor) for tensor in tensors])
