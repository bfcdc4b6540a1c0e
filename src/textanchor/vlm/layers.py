"""The decoder layers of a vision-language model: where the states of text and image positions can be read."""

from torch import nn

from textanchor.errors import ModelError
from textanchor.vlm.names import base_modules, is_within, unwrapped
from textanchor.vlm.parts import VLMParts


def decoder_layers(parts: VLMParts) -> list[str]:
    """Base names of the language model's layers, from the first to the last.

    ModelError where image tokens do not pass through them as positions of the sequence (encoder-decoders, and models
    whose images enter by cross-attention), or where there is no one list of layers.
    """
    name = type(unwrapped(parts.model)).__name__
    config = getattr(unwrapped(parts.model), "config", None)
    text_config = config.get_text_config() if config is not None else None
    if getattr(text_config, "cross_attention_layers", None):
        raise ModelError(
            f"{name}: images enter its language model by cross-attention, so no position holds an image token; its "
            "layers cannot be measured"
        )
    num_layers = getattr(text_config, "num_hidden_layers", None)
    lists = [
        path
        for path, module in base_modules(parts.model).items()
        if isinstance(module, nn.ModuleList)
        and len(module) == num_layers
        and path.rpartition(".")[2] == "layers"
        and is_within(path, parts.language_model)
    ]
    if len(lists) != 1:
        found = f"{len(lists)} lists of layers ({', '.join(lists)})" if lists else "no list of layers"
        raise ModelError(
            f"{name}: expected one list of {num_layers} decoder layers in {parts.language_model!r}, found {found}; "
            "only decoder-only language models can be measured"
        )
    return [f"{lists[0]}.{i}" for i in range(len(parts.module(lists[0])))]  # pyright: ignore[reportArgumentType]
