"""Fit an anchor on a model: one pass over texts for its language model, one over images for its projector.

Where it is asked to, the images have a question each, and the whole model passes over both. Nothing is trained and no
state is kept, only moments. All linears that receive the same states share one entry.

Shape legend: B texts of a batch, L tokens, N tokens that count, D width of a state.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from textanchor.errors import DataError
from textanchor.files import sha256_of_json
from textanchor.holds.anchor import INPUTS, SLOPES, Anchor
from textanchor.holds.gather import gather, require_gatherable
from textanchor.holds.pullback import SlopesGatherer
from textanchor.holds.sources import TEXT_EMBEDDING
from textanchor.holds.streams import Consume, Run, Streams, begin_id_of, sinks, text_batch
from textanchor.spectral import MomentsStream
from textanchor.vlm.capture import capture_inputs
from textanchor.vlm.fast_linears import fast_linears
from textanchor.vlm.hashing import hash_of_model
from textanchor.vlm.logits import without_logits
from textanchor.vlm.modes import evaluating
from textanchor.vlm.names import unwrapped
from textanchor.vlm.parts import VLMParts, find_parts
from textanchor.vlm.passes import (
    ImageBatch,
    image_batches,
    image_inputs,
    is_prepared,
    prompt_inputs,
    run_images,
    run_texts,
)

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

    In the place of images, `images` may hold batches of the model's own inputs (mappings, as in `model(**batch)`), for
    a model whose processor is missing or prepares images in no way that is known here.
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
    passes = _Passes(parts, processor, text_linears)
    # the longest texts first, as they tell best which norms are massive
    text_batches = reversed(_pieces(rows, batch_size)) if text_linears else []
    runs: list[Run] = [partial(passes.texts, batch) for batch in text_batches]
    batches = image_batches(images or (), batch_size)
    if text_linears and language_images:
        asked = _pieces(questions, batch_size) if questions else [()] * len(batches)
        runs += [partial(passes.images_with_questions, *batch) for batch in zip(batches, asked, strict=True)]
    else:
        runs += [partial(passes.images, batch) for batch in batches]
    streams, slopes = Streams(f"{INPUTS}/"), SlopesGatherer(parts)
    with evaluating(model), torch.no_grad(), fast_linears(model):
        embedding = _embedding_stream(parts, rows)
        for done, run in enumerate(runs, 1):
            with slopes.watching():
                streams.count(run)
            if progress is not None:
                progress(done, len(runs))
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


class _Passes:
    """Runs one batch through what it is for; padding is not counted, and no logits are made that nobody reads."""

    def __init__(self, parts: VLMParts, processor: Any, linears: list[str]) -> None:
        """`linears` of the language model."""
        self.parts, self.processor, self.linears = parts, processor, linears
        self.begin_id = begin_id_of(processor)
        self.language_model = parts.module(parts.language_model)
        self.options: dict[str, Any] = {} if parts.output_head in linears else without_logits(parts.model)

    def texts(self, rows: Sequence[list[int]], consume: Consume) -> dict[str, str]:
        """Texts through the language model alone."""
        device = next(self.language_model.parameters()).device
        ids_BL, real_BL, is_sink_N = text_batch(rows, self.begin_id, device)
        return capture_inputs(
            self.parts.model,
            self.linears,
            lambda: run_texts(self.parts, ids_BL, real_BL.long()),
            lambda name, states_ND: consume(name, states_ND, is_sink_N),
            token_mask=real_BL,
        )

    def images(self, images: ImageBatch, consume: Consume) -> dict[str, str]:
        """Images through tower and projector."""
        inputs = image_inputs(self.parts, self.processor, images)
        return self._through_projector(lambda: run_images(self.parts, inputs), consume)

    def images_with_questions(self, images: ImageBatch, questions: Sequence[str], consume: Consume) -> dict[str, str]:
        """Images with a question each through the whole model, whose projector and language model both count."""
        inputs = prompt_inputs(self.parts, self.processor, images, questions)
        ids_BL, real_BL = inputs["input_ids"], inputs["attention_mask"].bool()
        is_sink_N = sinks(ids_BL, real_BL, self.begin_id)
        whole: Any = unwrapped(self.parts.model)
        of_projector: dict[str, str] = {}

        def run() -> None:
            run_whole = partial(whole, **inputs, use_cache=False, **self.options)
            of_projector.update(self._through_projector(run_whole, consume))

        of_language_model = capture_inputs(
            self.parts.model,
            self.linears,
            run,
            lambda name, states_ND: consume(name, states_ND, is_sink_N),
            token_mask=real_BL,
        )
        return of_language_model | of_projector

    def _through_projector(self, run: Callable[[], object], consume: Consume) -> dict[str, str]:
        return capture_inputs(
            self.parts.model,
            list(self.parts.projector_linears()),
            run,
            lambda name, states_ND: consume(name, states_ND, None),
        )


def _num_images(images: Sequence[Any]) -> int:
    """Of batches that are prepared the rows, each of which holds an image."""
    return sum(len(next(iter(batch.values()))) for batch in images) if is_prepared(images) else len(images)


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
        "num_images": _num_images(images or ()),
    }
