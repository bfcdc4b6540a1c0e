"""The states that an anchor holds only when it is asked to: see the table in `sources.py`.

Shape legend: B texts or images of a batch, L tokens, N tokens that count, D width of text space, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

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
from textanchor.vlm.names import unwrapped
from textanchor.vlm.parts import VLMParts


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
    if asking and (not images or len(questions or ()) != len(images)):
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
    starts = range(0, len(images), batch_size)
    gathered: dict[str, Moments] = {}
    if layers := [basis for basis in bases if hidden_layer(basis) is not None]:
        gathered |= _hidden(layers, parts, begin_id_of(processor), texts)
    if TEXT_SENSITIVITY in bases:
        gathered[TEXT_SENSITIVITY] = text_sensitivity(parts, begin_id_of(processor), texts)
    if VISUAL in bases:
        gathered[VISUAL] = _visual(parts, processor, [images[i : i + batch_size] for i in starts])
    if REFERENCE_SENSITIVITY in bases:
        pairs = [(images[i : i + batch_size], questions[i : i + batch_size]) for i in starts]
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


def _visual(parts: VLMParts, processor: Any, batches: Iterable[Sequence[Any]]) -> Moments:
    """What the projector gives."""
    stream = MomentsStream(parts.embedding_width(), source=VISUAL)
    for images in batches:
        capture_outputs(
            parts.model,
            [parts.projector_output],
            lambda images=images: run_projector(parts, processor, images),
            lambda _, states_ND: stream.add(states_ND),
        )
    return stream.moments()


def run_projector(parts: VLMParts, processor: Any, images: Sequence[Any]) -> None:
    """Run tower and projector on images."""
    parameter = next(iter(parts.parameters_of("projector").values()))
    inputs = processor.image_processor(images=list(images), return_tensors="pt")
    visual = {name: value.to(parameter.device) for name, value in inputs.items() if isinstance(value, Tensor)}
    visual["pixel_values"] = visual["pixel_values"].to(parameter.dtype)
    base: Any = unwrapped(parts.model)
    base.get_image_features(**visual)
