"""Messages and images as inputs of a model, by its processor; what the processor or its chat template refuses is told.

A chat template is a program that came with the model, so it and the processor may stumble over anything.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from textanchor.errors import ModelError, shown

PREFIX_READERS = ("PaliGemmaProcessor",)
"""Processors of models that read in both directions whatever token_type_ids do not mark with 1 as an answer.

They take no text without an image, and end the text of one that has an image with a line break of their own.
"""

REFUSALS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)


def render_chat(
    processor: Any, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool, way_out: str
) -> str:
    """The messages as the processor's chat template writes them.

    ModelError, with the `way_out`, where there is no template, or it fails or writes nothing.
    """
    name = type(processor).__name__
    if not getattr(processor, "chat_template", None):
        raise ModelError(f"{name} has no chat template, so nothing can be written as this model expects; {way_out}")
    try:
        text = processor.apply_chat_template(messages, add_generation_prompt=add_generation_prompt, tokenize=False)
    except (TemplateError, *REFUSALS) as error:
        raise ModelError(f"the chat template of {name} fails ({type(error).__name__}: {error}); {way_out}") from error
    if not text.strip():
        raise ModelError(f"the chat template of {name} writes nothing for {shown(messages[-1])}; {way_out}")
    return text


def reads_prefix_both_ways(processor: Any) -> bool:
    """Whether the processor is one of `PREFIX_READERS`."""
    return type(processor).__name__ in PREFIX_READERS


def process(processor: Any, **inputs: Any) -> Any:
    """What the processor gives for `inputs`, without labels of its own; ModelError where it refuses them."""
    name = type(processor).__name__
    if reads_prefix_both_ways(processor) and not inputs.get("images"):
        raise ModelError(
            f"{name} takes no text without an image, and here is {shown(inputs['text'][0][-60:])}; leave out the rows "
            "without an image, or ask another model"
        )
    try:
        given = processor(**inputs)
    except REFUSALS as error:
        raise ModelError(
            f"{name} refuses the text {shown(inputs['text'][0][-60:])} with its images "
            f"({type(error).__name__}: {error}); the chat template must write one place for each image, and images "
            "must be such as this model reads"
        ) from error
    given.pop("labels", None)
    return given
