"""Fit an anchor on a model: one pass over texts for its language model, one over images for its projector.

Where it is asked to, the language model also passes over the images with a question each. Nothing is trained and no
state is kept, only moments. All linears that receive the same states share one entry.

Shape legend: B texts of a batch, L tokens, N tokens that count, D width of a state.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from textanchor.errors import DataError
from textanchor.files import sha256_of_json
from textanchor.holds.anchor import INPUTS, SLOPES, TEXT_EMBEDDING, Anchor
from textanchor.holds.gather import gather, require_gatherable, run_projector
from textanchor.holds.prompts import prompt_inputs
from textanchor.holds.pullback import SlopesGatherer
from textanchor.holds.store import hash_of_model
from textanchor.holds.streams import Consume, Streams, begin_id_of, sinks, text_batch
from textanchor.spectral import MomentsStream
from textanchor.vlm.capture import capture_inputs
from textanchor.vlm.names import unwrapped
from textanchor.vlm.parts import VLMParts, find_parts

Progress = Callable[[int, int], None]
"""Called with batches done and batches in all."""


def fit_anchor(
    model: nn.Module,
    processor: Any,
    texts: Sequence[str],
    images: Sequence[Any] | None = None,
    *,
    parts: VLMParts | None = None,
    linears: Iterable[str] | None = None,
    max_length: int = 512,
    batch_size: int = 8,
    progress: Progress | None = None,
    bases: Iterable[str] = (),
    questions: Sequence[str] | None = None,
    language_images: bool = False,
) -> Anchor:
    """Moments of a model's text states, and with `images` (PIL, RGB) of what enters its projector's linears.

    `texts` are cut to `max_length` tokens. `linears` (base names) limits those of the language model: moments of a
    linear of input width D take 8 (D + 1)^2 bytes. First tokens, begin-of-sequence tokens and tokens of massive norm
    count as sinks. `bases` names further states (see `sources.py`). With `language_images` the linears of the language
    model count what they receive on the images with their questions beside what they receive on the texts; that and
    reference_sensitivity take one question for each image. Fit before training; PEFT may wrap the model already.
    DataError where there are no texts, or images or questions too few, HoldError where states are not finite.
    """
    parts = find_parts(model) if parts is None else parts
    bases = require_gatherable(bases, images, questions, language_images=language_images)
    rows = _token_rows(processor, texts, max_length)
    text_linears = list(parts.text_linears()) if linears is None else list(linears)
    text_batches = _pieces(rows, batch_size) if text_linears else []
    image_batches = _pieces(images or (), batch_size)
    streams = Streams(f"{INPUTS}/")
    with _evaluating(model), torch.no_grad():
        embedding = _embedding_stream(parts, rows)
        run = _TextRun(parts, processor, text_linears)
        if text_batches:
            streams.learn_bounds(lambda consume: run(text_batches[-1], consume))  # the longest texts
        for done, batch in enumerate(text_batches, 1):
            streams.count(lambda consume, batch=batch: run(batch, consume))
            if progress is not None:
                progress(done, len(text_batches) + len(image_batches))
        if text_linears and language_images:
            assert questions is not None  # require_gatherable saw them
            for batch, asked in zip(image_batches, _pieces(questions, batch_size), strict=True):
                streams.count(lambda consume, batch=batch, asked=asked: run.with_images(batch, asked, consume))
        slopes = SlopesGatherer(parts)
        for done, batch in enumerate(image_batches, len(text_batches) + 1):
            with slopes.watching():
                streams.count(lambda consume, batch=batch: _run_images(parts, processor, batch, consume))
            if progress is not None:
                progress(done, len(text_batches) + len(image_batches))
        gathered = gather(bases, parts, processor, rows, images or (), questions or (), batch_size)
    moments = {TEXT_EMBEDDING: embedding.moments()}
    moments |= gathered | streams.moments()
    moments |= {f"{SLOPES}/{name}": stream.moments() for name, stream in slopes.streams.items()}
    asked_for = {"bases": list(bases)} if bases else {}
    asked_for |= {"questions_hash": sha256_of_json(list(questions))} if questions else {}
    asked_for |= {"language_images": True} if language_images else {}
    aliases = {f"{INPUTS}/{name}": f"{INPUTS}/{source}" for name, source in streams.aliases.items()}
    return Anchor(moments, aliases, _provenance(model, texts, rows, images, max_length) | asked_for)


def _pieces(values: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _token_rows(processor: Any, texts: Sequence[str], max_length: int) -> list[list[int]]:
    tokenizer = getattr(processor, "tokenizer", processor)
    rows = [tokenizer(text)["input_ids"][:max_length] for text in texts]
    rows = sorted((row for row in rows if row), key=len)  # texts of like length together: little padding
    if not rows:
        raise DataError("fit_anchor: no text has a token; give the texts that the model shall keep its language on")
    return rows


def _embedding_stream(parts: VLMParts, rows: list[list[int]]) -> MomentsStream:
    """Rows of the input embedding, each weighted by how often the texts use its token."""
    table_VD = parts.module(parts.input_embedding).weight
    assert isinstance(table_VD, Tensor)
    ids_N, counts_N = torch.tensor([token for row in rows for token in row]).unique(return_counts=True)
    stream = MomentsStream(table_VD.shape[1], source=TEXT_EMBEDDING)
    stream.add(table_VD[ids_N.to(table_VD.device)], weights_N=counts_N)
    return stream


class _TextRun:
    """Runs the language model alone on texts, so that no logits are made, or the whole model on images."""

    def __init__(self, parts: VLMParts, processor: Any, linears: list[str]) -> None:
        self.parts, self.processor, self.linears = parts, processor, linears
        self.begin_id = begin_id_of(processor)
        self.language_model = parts.module(parts.language_model)

    def __call__(self, rows: Sequence[list[int]], consume: Consume) -> dict[str, str]:
        """Run one batch; padding is not counted."""
        device = next(self.language_model.parameters()).device
        ids_BL, real_BL, is_sink_N = text_batch(rows, self.begin_id, device)
        return capture_inputs(
            self.parts.model,
            self.linears,
            lambda: self.language_model(input_ids=ids_BL, attention_mask=real_BL.long(), use_cache=False),
            lambda name, states_ND: consume(name, states_ND, is_sink_N),
            token_mask=real_BL,
        )

    def with_images(self, images: Sequence[Any], questions: Sequence[str], consume: Consume) -> dict[str, str]:
        """Run a batch of images with a question each; what the language model receives of both is counted."""
        inputs = prompt_inputs(self.parts, self.processor, images, questions)
        ids_BL, real_BL = inputs["input_ids"], inputs["attention_mask"].bool()
        is_sink_N = sinks(ids_BL, real_BL, self.begin_id)
        whole: Any = unwrapped(self.parts.model)
        return capture_inputs(
            self.parts.model,
            self.linears,
            lambda: whole(**inputs, use_cache=False),
            lambda name, states_ND: consume(name, states_ND, is_sink_N),
            token_mask=real_BL,
        )


def _run_images(parts: VLMParts, processor: Any, images: Sequence[Any], consume: Consume) -> dict[str, str]:
    """Run tower and projector on a batch of images."""
    return capture_inputs(
        parts.model,
        list(parts.projector_linears()),
        lambda: run_projector(parts, processor, images),
        lambda name, states_ND: consume(name, states_ND, None),
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout; each module returns to its own mode."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _provenance(
    model: nn.Module, texts: Sequence[str], rows: list[list[int]], images: Sequence[Any] | None, max_length: int
) -> dict[str, Any]:
    return {
        "model": type(unwrapped(model)).__name__,
        "model_hash": hash_of_model(model),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "texts_hash": sha256_of_json(list(texts)),
        "num_texts": len(texts),
        "num_tokens": sum(len(row) for row in rows),
        "max_length": max_length,
        "num_images": len(images) if images else 0,
    }
