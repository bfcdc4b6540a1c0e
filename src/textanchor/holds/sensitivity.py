"""Gradients of what the model says, at the ends of text space: E[g g^T], for which text covariance may stand in.

For small changes of a linear, forgetting is about tr(F Delta C Delta^T) with F = E[g g^T] at its outputs and C the
second moment of its inputs, as in K-FAC.

Shape legend: B texts or images of a batch, L tokens, D width of text space, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textanchor.errors import HoldError
from textanchor.holds.sources import REFERENCE_SENSITIVITY, TEXT_SENSITIVITY
from textanchor.holds.streams import text_batch
from textanchor.spectral import Moments, MomentsStream
from textanchor.vlm.names import is_within, unwrapped
from textanchor.vlm.parts import VLMParts
from textanchor.vlm.passes import ImageBatch, prompt_inputs

ANSWER_SEED = 0
"""Of the answers that reference_sensitivity draws from the model."""


def text_sensitivity(parts: VLMParts, begin_id: int | None, batches: Sequence[Sequence[list[int]]]) -> Moments:
    """E[g g^T] of the loss on each text's next tokens, at what the input embedding gives; sinks apart."""
    model: Any = unwrapped(parts.model)
    is_whole = parts.output_head is not None and is_within(parts.output_head, parts.language_model)
    model = parts.module(parts.language_model) if is_whole else model  # BLIP-2 as a whole asks for an image
    embedding = parts.module(parts.input_embedding)
    stream = MomentsStream(parts.embedding_width(), unit_norm=False, source=TEXT_SENSITIVITY)
    for rows in batches:
        ids_BL, real_BL, is_sink_N = text_batch(rows, begin_id, next(embedding.parameters()).device)
        with _leaves(embedding) as leaves:
            logits_BLV = model(input_ids=ids_BL, attention_mask=real_BL.long(), use_cache=False).logits
            is_label_BL = real_BL[:, 1:]
            loss = F.cross_entropy(logits_BLV[:, :-1][is_label_BL].float(), ids_BL[:, 1:][is_label_BL], reduction="sum")
            (gradients_BLD,) = torch.autograd.grad(loss, leaves)
        stream.add(gradients_BLD[real_BL], is_sink_N=is_sink_N)
    return stream.moments()


def reference_sensitivity(
    parts: VLMParts, processor: Any, batches: Iterable[tuple[ImageBatch, Sequence[str]]]
) -> Moments:
    """F_y = E[g g^T] at what the projector gives, g the gradient of -log p(y), y the first token of an answer.

    y is drawn from the model's own distribution, so no labels are needed: the Fisher information, of which K-FAC
    (Martens and Grosse, arXiv 1503.05671, section 2.2) samples the same way.
    """
    model: Any = unwrapped(parts.model)
    projector = parts.module(parts.projector_output)
    generator = torch.Generator().manual_seed(ANSWER_SEED)
    stream = MomentsStream(parts.embedding_width(), unit_norm=False, source=REFERENCE_SENSITIVITY)
    for images, questions in batches:
        inputs = prompt_inputs(parts, processor, images, questions)
        with _leaves(projector) as leaves:
            logits_BLV = model(**inputs, use_cache=False).logits
            real_BL = inputs["attention_mask"]
            last_B = (real_BL * torch.arange(real_BL.shape[1], device=real_BL.device)).argmax(1)
            logits_BV = logits_BLV[torch.arange(len(last_B), device=last_B.device), last_B].float()
            shares_BV = logits_BV.detach().softmax(-1).cpu()
            answers_B = torch.multinomial(shares_BV, 1, generator=generator)[:, 0].to(logits_BV.device)
            loss = F.cross_entropy(logits_BV, answers_B, reduction="sum")
            if not leaves:
                raise HoldError(f"{REFERENCE_SENSITIVITY}: {parts.projector_output} did not run on the images")
            gradients = torch.autograd.grad(loss, leaves)
        for gradient in gradients:
            stream.add(gradient.reshape(-1, gradient.shape[-1]))
    return stream.moments()


@contextmanager
def _leaves(module: nn.Module) -> Iterator[list[Tensor]]:
    """Gradients end at what the module gives: during the block its outputs are leaves, gathered in the list."""
    leaves: list[Tensor] = []

    def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor:
        if not isinstance(output, Tensor):
            raise HoldError(f"gradients are taken at one tensor, but {type(module).__name__} gives another kind")
        leaves.append(output.detach().requires_grad_(True))
        return leaves[-1]

    handle = module.register_forward_hook(hook)
    try:
        with torch.enable_grad():
            yield leaves
    finally:
        handle.remove()
