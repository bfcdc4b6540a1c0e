"""The states that an anchor holds only when it is asked to: see the table in `sources.py`.

Shape legend: B texts or images of a batch, L tokens, N tokens that count, D width of text space, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from textanchor.errors import ConfigError, DataError, HoldError
from textanchor.holds.sensitivity import reference_sensitivity, text_sensitivity
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
from textanchor.vlm.parts import VLMParts
from textanchor.vlm.passes import ImageBatch, image_batches, image_inputs, is_prepared, run_images


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
