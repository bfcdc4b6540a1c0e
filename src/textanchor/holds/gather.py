"""The states that an anchor holds only when it is asked to: see the table in `sources.py`.

Among them gradients of what the model says, at the ends of text space: E[g g^T], for which text covariance may stand
in. For small changes of a linear, forgetting is about tr(F Delta C Delta^T) with F = E[g g^T] at its outputs and C the
second moment of its inputs, as in K-FAC.

Shape legend: B texts or images of a batch, L tokens, N tokens that count, D width of text space, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from textanchor.errors import ConfigError, DataError, HoldError
from textanchor.holds.sources import (
    REFERENCE_SENSITIVITY,
    TEXT_SENSITIVITY,
    VISUAL,
    hidden_layer,
    is_gathered,
    takes_images,
    way_out,
)
from textanchor.holds.streams import Consume, Streams, begin_id_of, text_batch
from textanchor.spectral import Moments, MomentsStream
from textanchor.vlm.capture import capture_outputs
from textanchor.vlm.names import is_within, unwrapped
from textanchor.vlm.parts import VLMParts
from textanchor.vlm.passes import ImageBatch, image_batches, image_inputs, is_prepared, prompt_inputs, run_images

ANSWER_SEED = 0
"""Of the answers that reference_sensitivity draws from the model."""


def require_gatherable(
    bases: Iterable[str], images: Sequence[Any] | None, questions: Sequence[str] | None, *, language_images: bool
) -> tuple[str, ...]:
    """The bases, each once; ConfigError for an unknown one, DataError where images or questions are missing."""
    bases = tuple(dict.fromkeys(bases))
    if unknown := [basis for basis in bases if not is_gathered(basis)]:
        raise ConfigError(
            f"fit_anchor: bases may name hidden:<layer>, {TEXT_SENSITIVITY}, {REFERENCE_SENSITIVITY} and {VISUAL}, "
            f"found {unknown[0]!r}; all others need no gathering"
        )
    if needy := [basis for basis in bases if takes_images(basis) and not images]:
        raise DataError(f"fit_anchor: basis {needy[0]!r} needs reference images: {way_out(needy[0])}")
    asking = [REFERENCE_SENSITIVITY] * (REFERENCE_SENSITIVITY in bases) + ["language_images"] * language_images
    if questions and is_prepared(images):
        raise ConfigError(
            "fit_anchor: questions have no effect on batches of the model's own inputs, which hold theirs; remove them"
        )
    if asking and (not images or len(questions or ()) != len(images)) and not is_prepared(images):
        raise DataError(
            f"fit_anchor: {asking[0]} asks one question about each image, found {len(questions or ())} "
            f"questions for {len(images or ())} images"
        )
    if questions and not asking:
        raise ConfigError(
            f"fit_anchor: questions have no effect without bases=[{REFERENCE_SENSITIVITY!r}] or language_images=True; "
            "remove them"
        )
    return bases


def gather(
    bases: Sequence[str],
    parts: VLMParts,
    processor: Any,
    rows: Sequence[list[int]],
    images: Sequence[Any],
    questions: Sequence[str],
    batch_size: int,
) -> dict[str, Moments]:
    """Moments of each of `bases`; `rows` are token ids of the texts, the longest last."""
    texts = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    batches = image_batches(images, batch_size)
    gathered: dict[str, Moments] = {}
    if layers := [basis for basis in bases if hidden_layer(basis) is not None]:
        gathered |= _hidden(layers, parts, begin_id_of(processor), texts)
    if TEXT_SENSITIVITY in bases:
        gathered[TEXT_SENSITIVITY] = text_sensitivity(parts, begin_id_of(processor), texts)
    if VISUAL in bases:
        gathered[VISUAL] = _visual(parts, processor, batches)
    if REFERENCE_SENSITIVITY in bases:
        starts = range(0, len(batches) * batch_size, batch_size)  # batches that are prepared hold their own questions
        pairs = [(batch, questions[i : i + batch_size]) for batch, i in zip(batches, starts, strict=True)]
        gathered[REFERENCE_SENSITIVITY] = reference_sensitivity(parts, processor, pairs)
    return {basis: gathered[basis] for basis in bases}


def _hidden(
    layers: Sequence[str], parts: VLMParts, begin_id: int | None, batches: Sequence[Sequence[list[int]]]
) -> dict[str, Moments]:
    """States after l layers (0: the input embedding), sinks apart as at the inputs of linears."""
    language_model = parts.module(parts.language_model)
    device = next(language_model.parameters()).device

    def run(rows: Sequence[list[int]], consume: Consume) -> dict[str, str]:
        ids_BL, real_BL, is_sink_N = text_batch(rows, begin_id, device)
        options = {"output_hidden_states": True, "use_cache": False}
        states = language_model(input_ids=ids_BL, attention_mask=real_BL.long(), **options).hidden_states
        for name in layers:
            number = hidden_layer(name)
            if states is None or number is None or number >= len(states):
                known = "gives none" if states is None else f"gives 0 to {len(states) - 1}"
                raise HoldError(f"basis {name!r}: {type(language_model).__name__} {known}; name one of those")
            consume(name, states[number][real_BL], is_sink_N)
        return {name: name for name in layers}

    streams = Streams()
    for rows in reversed(batches):  # the longest first, as for the linears
        streams.count(lambda consume, rows=rows: run(rows, consume))
    return streams.moments()


def _visual(parts: VLMParts, processor: Any, batches: Iterable[ImageBatch]) -> Moments:
    """What the projector gives."""
    stream = MomentsStream(parts.embedding_width(), source=VISUAL)
    for images in batches:
        inputs = image_inputs(parts, processor, images)
        capture_outputs(
            parts.model,
            [parts.projector_output],
            lambda inputs=inputs: run_images(parts, inputs),
            lambda _, states_ND: stream.add(states_ND),
        )
    return stream.moments()


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
