"""Reference images with a question each, written as the model expects its prompts."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from textanchor.vlm.chat import process, render_chat
from textanchor.vlm.parts import VLMParts


def prompt_inputs(
    parts: VLMParts, processor: Any, images: Sequence[Any], questions: Sequence[str]
) -> dict[str, Tensor]:
    """Inputs of a forward pass over one prompt for each image, on the projector's device and in its type."""
    prompts = [_prompt(processor, question) for question in questions]
    begin = getattr(processor.tokenizer, "bos_token", None)
    adds_begin = begin is None or not prompts[0].startswith(begin)
    options = {"return_tensors": "pt", "padding": True, "add_special_tokens": adds_begin}
    inputs = process(processor, images=[[image] for image in images], text=prompts, **options)
    parameter = next(parts.module(parts.projector_output).parameters())
    placed = {name: value.to(parameter.device) for name, value in inputs.items() if isinstance(value, Tensor)}
    return placed | {"pixel_values": placed["pixel_values"].to(parameter.dtype)}


def _prompt(processor: Any, question: str) -> str:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    way_out = "set processor.chat_template to the template of the model"
    return render_chat(processor, messages, add_generation_prompt=True, way_out=way_out)
