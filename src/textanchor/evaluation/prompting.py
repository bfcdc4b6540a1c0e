"""Items as the text and tokens that a model is asked with, through the processor's own chat template."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from textanchor.data.items import ImageSource, Item
from textanchor.errors import DataError, ModelError


@dataclass(frozen=True, kw_only=True)
class EncodedItem:
    """A prompt with candidate answers, as text and as token ids in which an image is still one placeholder.

    Prompt and answer are tokenized together; a candidate's tokens are those after the beginning that all candidates and
    the prompt alone share, so that no tokenizer can hide a border between prompt and answer.
    """

    prompt: str
    texts: tuple[str, ...]
    """Prompt and answer of each candidate."""
    context: tuple[int, ...]
    """Ids of the prompt."""
    continuations: tuple[tuple[int, ...], ...]
    """Ids of each candidate, which follow the context."""
    image: ImageSource | None
    adds_special_tokens: bool
    """Whether the tokenizer has to add the beginning of the text, because the chat template does not write it."""


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer of a processor; a tokenizer itself."""
    return getattr(processor, "tokenizer", processor)


def render_prompt(processor: Any, item: Item, *, blind: bool = False) -> str:
    """The item as a user's turn and the opening of the answer; without its image where `blind`.

    Raises ModelError where the processor has no chat template, or takes no images and the item has one.
    """
    if not getattr(processor, "chat_template", None):
        raise ModelError(
            f"{type(processor).__name__} has no chat template, so questions cannot be written as this model expects; "
            "set processor.chat_template to the template of the model"
        )
    content: list[dict[str, str]] | str = [{"type": "text", "text": item.question}]
    if getattr(processor, "image_processor", None) is None:
        if item.image is not None and not blind:
            raise ModelError(
                f"item {item.id}: it has an image, but {type(processor).__name__} takes none; "
                "give the processor of the vision-language model"
            )
        content = item.question  # templates of text-only models know no content parts
    elif item.image is not None and not blind:
        content = [{"type": "image"}, *content]
    messages = [{"role": "user", "content": content}]
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def adds_special_tokens(processor: Any, prompt: str) -> bool:
    """False where the template already wrote the beginning-of-text token, which the tokenizer would add once more."""
    bos = tokenizer_of(processor).bos_token
    return bos is None or not prompt.startswith(bos)


def encode_item(processor: Any, item: Item, candidates: Sequence[str], *, blind: bool = False) -> EncodedItem:
    """Prompt and candidates as tokens; DataError where a candidate is empty or two of them are the same tokens."""
    prompt = render_prompt(processor, item, blind=blind)
    space = "" if prompt[-1:].isspace() else " "
    texts = tuple(f"{prompt}{space}{candidate}" for candidate in candidates)
    special = adds_special_tokens(processor, prompt)
    encode = tokenizer_of(processor)
    ids = [encode(text, add_special_tokens=special)["input_ids"] for text in (prompt, *texts)]
    start = _num_shared(ids)
    continuations = tuple(tuple(row[start:]) for row in ids[1:])
    if not all(continuations) or len(set(continuations)) < len(continuations):
        raise DataError(
            f"item {item.id}: its candidate answers {list(candidates)} are not all different, non-empty texts to the "
            "model's tokenizer; mend the item"
        )
    return EncodedItem(
        prompt=prompt,
        texts=texts,
        context=tuple(ids[0][:start]),
        continuations=continuations,
        image=None if blind else item.image,
        adds_special_tokens=special,
    )


def _num_shared(rows: Sequence[Sequence[int]]) -> int:
    """Length of the beginning that all rows share."""
    return next((i for i, column in enumerate(zip(*rows, strict=False)) if len(set(column)) > 1), min(map(len, rows)))
