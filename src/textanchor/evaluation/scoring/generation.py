"""Greedy answers, generated side by side."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from textanchor.data.items import ImageSource, Item, open_image
from textanchor.evaluation.scoring.prompting import adds_special_tokens, as_taken_by, render_prompt, tokenizer_of
from textanchor.evaluation.suite import EvaluationOptions, image_hash, measuring
from textanchor.files import sha256_of_json
from textanchor.vlm.chat import process
from textanchor.vlm.names import unwrapped


def generate_answers(
    model: nn.Module,
    processor: Any,
    items: Sequence[Item],
    *,
    max_new_tokens: int,
    blind: bool = False,
    options: EvaluationOptions | None = None,
) -> list[str]:
    """The greedy answer to each item as written, up to the end of turn or `max_new_tokens`; `blind`: without images.

    The model's own generation settings (sampling, penalties) are not used, except for its end and padding tokens.
    It computes in the format of the weights, whatever `options.precision`: casting them for every token costs more than
    it saves.
    """
    options = options or EvaluationOptions()
    prompts = [render_prompt(processor, item, blind=blind) for item in items]
    shown = [item.image is not None and not blind for item in items]
    answers: dict[int, str] = {}
    with measuring(model):
        for with_image in (True, False):
            indices = [i for i, has_image in enumerate(shown) if has_image == with_image]
            indices.sort(key=lambda i: -len(prompts[i]))
            for start in range(0, len(indices), options.batch_size):
                batch = indices[start : start + options.batch_size]
                images = [items[i].image for i in batch] if with_image else [None] * len(batch)
                keys = partial(_keys, [prompts[i] for i in batch], images, max_new_tokens)
                texts = options.known(keys)
                if texts is None:
                    texts = _generate(model, processor, [prompts[i] for i in batch], images, max_new_tokens)
                    options.keep(lambda keys=keys, texts=texts: dict(zip(keys(), texts, strict=True)))
                answers.update(zip(batch, texts, strict=True))
                options.finished(len(batch))
    return [answers[i] for i in range(len(items))]


def _keys(prompts: Sequence[str], images: Sequence[ImageSource | None], max_new_tokens: int) -> list[str]:
    """SHA-256 of what is asked for each answer."""
    shown = [image and image_hash(image) for image in images]
    return [sha256_of_json([*pair, max_new_tokens]) for pair in zip(prompts, shown, strict=True)]


def _generate(
    model: nn.Module, processor: Any, prompts: Sequence[str], images: Sequence[ImageSource | None], max_new_tokens: int
) -> list[str]:
    from transformers import GenerationConfig

    plain: Any = unwrapped(model)
    tokenizer = tokenizer_of(processor)
    shown = [[open_image(image)] for image in images if image is not None]
    visual = {"images": shown} if shown else {}
    inputs = process(
        processor,
        text=list(prompts),
        **visual,
        add_special_tokens=adds_special_tokens(processor, prompts[0]),
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    inputs = as_taken_by(plain, inputs)
    own = plain.generation_config
    eos = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
    greedy = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=eos,
        pad_token_id=own.pad_token_id if own.pad_token_id is not None else tokenizer.pad_token_id,
        use_cache=True,
    )
    output_BL = plain.generate(**inputs, generation_config=greedy)
    new_BL = output_BL[:, inputs["input_ids"].shape[1] :]
    return tokenizer.batch_decode(new_BL, skip_special_tokens=True)
