"""One conversation as one token sequence in which only the answers, each with its end of turn, are labels.

Notable:
- each prompt and each answer is tokenized on its own and the tokens are joined, because at inference the model
  continues a tokenized prompt; tokenizing the whole could merge characters across that border;
- on its own, but behind what precedes it, whose tokens are then cut off: SentencePiece tokenizers mark the beginning of
  a text as if a space stood there, which no prompt or answer inside a conversation has;
- PaliGemma's processor takes no text without an image, so its tokenizer reads later turns, and its model reads in both
  directions what token_type_ids mark with 0, so everything from the first answer on is marked with 1;
- the text comes from the processor's chat template, rendered up to each border: no family's format is written down
  here.

Shape legend: L tokens of one sequence, I images.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from textanchor.data.items import PLACEHOLDER, Conversation, open_image
from textanchor.errors import DataError, ModelError
from textanchor.evaluation.scoring.prompting import reserved_tokens
from textanchor.vlm.chat import process, reads_prefix_both_ways, render_chat

IGNORED = -100
"""Label of tokens that are not learned."""


@dataclass(frozen=True)
class Example:
    """One conversation as the model takes it, without padding."""

    id: str
    input_ids_L: Tensor
    labels_L: Tensor
    token_inputs: dict[str, Tensor]
    """Further inputs with one (L,) value for each token, such as token_type_ids."""
    visual_inputs: dict[str, Tensor]
    """Inputs of the vision tower, such as pixel_values (I, 3, H, W); empty without images."""


@dataclass(frozen=True)
class Segment:
    """A stretch of text that is tokenized on its own."""

    text: str
    is_answer: bool
    images: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class _Piece:
    """A tokenized segment: inputs with one value for each token, (L,), and what the images of the segment give."""

    segment: Segment
    per_token: dict[str, Tensor]
    visual: dict[str, Tensor]

    @property
    def ids_L(self) -> Tensor:
        return self.per_token["input_ids"]


def encode(conversation: Conversation, processor: Any, *, max_tokens: int | None = None) -> Example:
    """The conversation as (L,) ids and labels with the processor's other inputs.

    DataError naming the conversation where placeholders and images do not match, an answer holds a placeholder, the
    sequence is longer than `max_tokens`, or there is no image and the processor takes nothing without one; ModelError
    where the chat template is missing or rewrites earlier turns.
    """
    if reads_prefix_both_ways(processor) and not conversation.images:
        raise DataError(
            f"conversation {conversation.id}: it has no image, and {type(processor).__name__} takes no text without "
            "one; leave such conversations out of the data of this model"
        )
    pieces: list[_Piece] = []
    for segment in segments(conversation, processor):
        pieces.append(_piece(segment, pieces[-1].segment if pieces else None, processor))
    labels_L = torch.cat([p.ids_L if p.segment.is_answer else torch.full_like(p.ids_L, IGNORED) for p in pieces])
    if max_tokens is not None and len(labels_L) > max_tokens:
        raise DataError(
            f"conversation {conversation.id}: {len(labels_L)} tokens with its images, more than the {max_tokens} "
            "allowed; shorten it, leave it out, or raise data.max_tokens if the model can read more"
        )
    names = sorted({name for p in pieces for name in p.per_token} - {"attention_mask"})
    per_token = {n: torch.cat([p.per_token.get(n, torch.zeros_like(p.ids_L)) for p in pieces]) for n in names}
    if reads_prefix_both_ways(processor):
        per_token["token_type_ids"] = ((labels_L != IGNORED).cumsum(0) > 0).long()
    return Example(conversation.id, per_token.pop("input_ids"), labels_L, per_token, _visual_inputs(pieces, processor))


def segments(conversation: Conversation, processor: Any) -> Iterator[Segment]:
    """Prompt and answer of each turn in order; joined, the texts are what the chat template writes."""
    messages, images = _messages(conversation, processor), [open_image(source) for source in conversation.images]
    num_leading = len(messages) - 2 * len(conversation.turns)  # the system message, if any
    done, tail = "", ""
    for i, turn in enumerate(conversation.turns):
        end = num_leading + 2 * i + 1
        prompt = _render(messages[:end], processor, add_generation_prompt=True)
        closed = _render(messages[: end + 1], processor, add_generation_prompt=False)
        if not (prompt.startswith(done) and closed.startswith(prompt)):
            raise ModelError(
                f"conversation {conversation.id}, turn {i + 1}: the processor's chat template changes what it wrote "
                "for earlier turns, so answers cannot be told from prompts; set data.chat_template to one that only "
                "appends"
            )
        num_images = sum(part["type"] == "image" for part in messages[end - 1]["content"])
        yield Segment(tail + prompt[len(done) :], False, tuple(images[:num_images]))
        images = images[num_images:]
        written = closed[len(prompt) :]
        answer = written.rstrip()  # the end of turn is learned, the line break before the next turn is not
        tail, done = written[len(answer) :], closed
        if answer.strip() == turn.answer.strip():
            answer += _end_of_text(processor)  # templates such as Vicuna's leave it to the trainer
        yield Segment(answer, True)


def _messages(conversation: Conversation, processor: Any) -> list[dict[str, Any]]:
    """The conversation in the Transformers chat format, with a content part of type image for each image."""
    marked = sum(turn.question.count(PLACEHOLDER) for turn in conversation.turns)
    if marked not in (0, len(conversation.images)):
        raise DataError(
            f"conversation {conversation.id}: {marked} {PLACEHOLDER} placeholders for {len(conversation.images)} "
            "images; write one for each, or none to put all images first"
        )
    if not conversation.turns:
        raise DataError(f"conversation {conversation.id}: no turns; it needs at least one question and answer")
    messages = []
    if conversation.system is not None:
        messages.append({"role": "system", "content": [{"type": "text", "text": conversation.system}]})
    for i, turn in enumerate(conversation.turns):
        pieces = turn.question.split(PLACEHOLDER)
        for token in reserved_tokens(processor):
            if token in turn.answer or any(token in piece for piece in pieces):
                raise DataError(
                    f"conversation {conversation.id}, turn {i + 1}: the image token {token} stands where no image can; "
                    f"remove it (questions mark images by {PLACEHOLDER})"
                )
        content: list[dict[str, str]] = [{"type": "image"}] * len(conversation.images) if marked == 0 and i == 0 else []
        for j, piece in enumerate(pieces):
            content += [{"type": "image"}] if j > 0 else []
            content += [{"type": "text", "text": piece.strip()}] if piece.strip() else []
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer.strip()}]})
    return messages


def _render(messages: list[dict[str, Any]], processor: Any, *, add_generation_prompt: bool) -> str:
    way_out = "set data.chat_template to a file with the template of the model"
    return render_chat(processor, messages, add_generation_prompt=add_generation_prompt, way_out=way_out)


def _end_of_text(processor: Any) -> str:
    token = processor.tokenizer.eos_token
    if token is None:
        raise ModelError(
            "neither the chat template nor the tokenizer has an end of turn; set the tokenizer's eos_token"
        )
    return token


def _piece(segment: Segment, before: Segment | None, processor: Any) -> _Piece:
    if before is not None:
        return _later_piece(segment, before, processor)
    bos = processor.tokenizer.bos_token
    needs_bos = not (bos is not None and segment.text.startswith(bos))
    per_token, visual = _processed(segment.text, segment.images, processor, add_special_tokens=needs_bos)
    if needs_bos and per_token["input_ids"][-1:].tolist() == [processor.tokenizer.eos_token_id]:
        per_token = {name: tensor[:-1] for name, tensor in per_token.items()}  # the prompt is not the end of the text
    return _Piece(segment, per_token, visual)


def _later_piece(segment: Segment, before: Segment, processor: Any) -> _Piece:
    """The segment tokenized behind the end of the one before it, without the tokens of that end."""
    lead = _after_images(before.text, processor)
    if before.images and reads_prefix_both_ways(processor):
        lead += "\n"
    lead_L = _processed(lead, (), processor, add_special_tokens=False)[0]["input_ids"] if lead else torch.zeros(0)
    per_token, visual = _processed(lead + segment.text, segment.images, processor, add_special_tokens=False)
    if not torch.equal(per_token["input_ids"][: len(lead_L)], lead_L):  # characters merged across the border
        per_token, visual = _processed(segment.text, segment.images, processor, add_special_tokens=False)
        return _Piece(segment, per_token, visual)
    return _Piece(segment, {name: tensor[len(lead_L) :] for name, tensor in per_token.items()}, visual)


def _after_images(text: str, processor: Any) -> str:
    """What follows the last placeholder of an image, by any of the names that processors have for one."""
    names = (getattr(processor, name, None) for name in ("image_token", "boi_token"))
    for placeholder in (PLACEHOLDER, *(name for name in names if isinstance(name, str))):
        text = text.rpartition(placeholder)[2]
    return text


def _processed(
    text: str, images: tuple[Image.Image, ...], processor: Any, *, add_special_tokens: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs of one text with its images: those with one value for each token as (L,), and the others as they are."""
    alone = not images and reads_prefix_both_ways(processor)
    inputs = process(
        processor.tokenizer if alone else processor,
        text=[text],
        **({} if alone else {"images": [list(images)] if images else None}),
        add_special_tokens=add_special_tokens,
        return_tensors="pt",
    )
    shape_1L = inputs["input_ids"].shape
    for name, tensor in inputs.items():
        if not isinstance(tensor, Tensor) or (tensor.ndim > 2 and tensor.shape[:2] == shape_1L):
            raise ModelError(
                f"{type(processor).__name__} gives {name}, which is not a tensor of tokens or of images; adapt cannot "
                "join it over the turns of a conversation, so models with this processor cannot be trained by it"
            )
    per_token = {name: tensor[0].long() for name, tensor in inputs.items() if tensor.shape == shape_1L}
    return per_token, {name: tensor for name, tensor in inputs.items() if tensor.shape != shape_1L}


def _visual_inputs(pieces: list[_Piece], processor: Any) -> dict[str, Tensor]:
    with_images = [piece for piece in pieces if piece.segment.images]
    if len(with_images) < 2:
        return with_images[0].visual if with_images else {}
    # some processors pad the images of one sequence to one shape, so they go in together
    text = "".join(piece.segment.text for piece in pieces)
    images = tuple(image for piece in with_images for image in piece.segment.images)
    return _processed(text, images, processor, add_special_tokens=False)[1]
