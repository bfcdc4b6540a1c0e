"""Items as the text and tokens that a model is asked with, through the processor's own chat template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from textanchor.data.items import PLACEHOLDER, ImageSource, Item
from textanchor.errors import DataError, ModelError
from textanchor.evaluation.suite import image_hash
from textanchor.files import sha256_of_json
from textanchor.vlm.chat import render_chat


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

    @cached_property
    def key(self) -> str:
        """SHA-256 of what is asked."""
        return sha256_of_json([self.texts, self.image and image_hash(self.image)])


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer of a processor; a tokenizer itself."""
    return getattr(processor, "tokenizer", processor)


def reserved_tokens(processor: Any) -> set[str]:
    """What stands for an image: in the data, and in the texts of this processor."""
    return {PLACEHOLDER, getattr(processor, "image_token", None) or PLACEHOLDER}


def render_prompt(processor: Any, item: Item, *, blind: bool = False) -> str:
    """The item as a user's turn and the opening of the answer; without its image where `blind`.

    Raises ModelError where the processor has no chat template, or takes no images and the item has one.
    """
    shown = item.image is not None and not blind
    takes_images = getattr(processor, "image_processor", None) is not None
    if shown and not takes_images:
        raise ModelError(
            f"item {item.id}: it has an image, but {type(processor).__name__} takes none; "
            "give the processor of the vision-language model"
        )
    messages = _messages(item, shown=shown)
    if not takes_images:  # templates of text-only models know no content parts
        messages = [{**m, "content": "".join(part["text"] for part in m["content"])} for m in messages]
    way_out = "set processor.chat_template to the template of the model, and save the processor beside it"
    return render_chat(processor, messages, add_generation_prompt=True, way_out=way_out)


def _messages(item: Item, *, shown: bool) -> list[dict[str, Any]]:
    """System text, earlier turns and the question as content parts; DataError where the image has two places."""
    questions = [*(turn.question for turn in item.history), item.question]
    if sum(question.count(PLACEHOLDER) for question in questions) > 1:
        raise DataError(
            f"item {item.id}: {PLACEHOLDER} stands more than once, but an item has one image; mend the item"
        )
    marked = any(PLACEHOLDER in question for question in questions)
    messages = [] if item.system is None else [_message("system", [_text(item.system)])]
    for number, question in enumerate(questions):
        content = [{"type": "image"}] if shown and not marked and number == 0 else []
        before, mark, after = question.partition(PLACEHOLDER)
        content += [_text(before.strip() if mark else before)] if before.strip() else []
        if mark:
            content += [{"type": "image"}] if shown else []
            content += [_text(after.strip())] if after.strip() else []
        messages.append(_message("user", content))
        if number < len(item.history):
            messages.append(_message("assistant", [_text(item.history[number].answer)]))
    return messages


def _message(role: str, content: list[dict[str, str]]) -> dict[str, Any]:
    return {"role": role, "content": content}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def adds_special_tokens(processor: Any, prompt: str) -> bool:
    """False where the template already wrote the beginning-of-text token, which the tokenizer would add once more."""
    bos = tokenizer_of(processor).bos_token
    return bos is None or not prompt.startswith(bos)


def encode_item(processor: Any, item: Item, candidates: Sequence[str], *, blind: bool = False) -> EncodedItem:
    """Prompt and candidates as tokens; DataError where a candidate is empty or two of them are the same tokens."""
    prompt = render_prompt(processor, item, blind=blind)
    for token in reserved_tokens(processor):
        if any(token in candidate for candidate in candidates):
            raise DataError(
                f"item {item.id}: the image token {token} stands in an answer, where no image can; remove it"
            )
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


def as_taken_by(model: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The processor's tensors on the model's device, pixels in its type (processors give float32), ids as they are."""
    return {
        name: tensor.to(device=model.device, dtype=model.dtype if tensor.is_floating_point() else None)
        for name, tensor in inputs.items()
    }
