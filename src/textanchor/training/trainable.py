"""Set up what is trained: nothing but what the configuration names, part by part.

Tensors trained in full are trained in place; adapters are PEFT's, on the linears that the method names (by default
those of parts with train: lora).
"""

from typing import Any

import torch
from torch import nn

from textanchor.errors import ModelError
from textanchor.training.adapters import AdapterTargets
from textanchor.training.config import PART_NAMES, PartConfig, PartName, PartsConfig
from textanchor.training.method import AbstractMethod
from textanchor.vlm.names import base_parameters, is_within, unwrapped
from textanchor.vlm.parts import VLMParts, find_parts, linears_within


def set_up_training(
    model: nn.Module,
    config: PartsConfig,
    *,
    seed: int,
    method: AbstractMethod | None = None,
    processor: Any = None,
) -> VLMParts:
    """Freeze all but what `config` trains, wrapping the model in PEFT where it asks for LoRA; `.model` is what to
    train.

    LoRA starts at an update of zero, its A drawn with `seed`, unless the `method` makes its adapters otherwise, for
    which it may need the `processor`. ModelError naming the key where a part has nothing to train in that way, and
    where the model is adapted already or a tensor is not float32.
    """
    method = AbstractMethod() if method is None else method
    _check_model(model)
    parts = find_parts(model, **{name: getattr(config, name).path for name in PART_NAMES})
    model.requires_grad_(False)
    adapted = method.adapted(config)
    if adapted:
        linears: dict[PartName, list[str]] = {name: _linears(parts, name, part) for name, part in adapted.items()}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = method.make_adapter(AdapterTargets(parts, linears, adapted, processor))
        parts = VLMParts.from_dict(model, parts.to_dict())
    for name, part in config.trained().items():
        if name not in adapted:
            for parameter in _tensors(parts, name, part).values():
                parameter.requires_grad_(True)
    return parts


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Base name to parameter of everything that is trained."""
    return {name: parameter for name, parameter in base_parameters(model).items() if parameter.requires_grad}


def num_trained(parts: VLMParts) -> dict[str, int]:
    """Number of trained values of each part."""
    trained = trained_parameters(parts.model)
    return {part: sum(p.numel() for name, p in trained.items() if parts.part_of(name) == part) for part in PART_NAMES}


def _check_model(model: nn.Module) -> None:
    if hasattr(model, "peft_config"):
        raise ModelError(
            "the model is wrapped by PEFT already, and adapt puts its own adapters on it: what the other one trains, "
            "or keeps in modules_to_save, would be lost; give the plain model, after merge_and_unload() if its adapter "
            "is to count"
        )
    if getattr(unwrapped(model).config, "is_encoder_decoder", False):
        raise ModelError(
            f"{type(model).__name__} is an encoder-decoder, whose answers do not continue the prompt; adapt trains "
            "models with a decoder only"
        )
    for name, parameter in base_parameters(model).items():
        if parameter.dtype != torch.float32:
            raise ModelError(
                f"{name} is {parameter.dtype}, but adapt takes models in float32 only: small steps, and updates merged "
                "into the weights, are lost in the rounding of anything less; load the model with dtype=torch.float32 "
                "(training.precision: bfloat16 still computes in bfloat16)"
            )


def _tensors(parts: VLMParts, name: PartName, config: PartConfig) -> dict[str, nn.Parameter]:
    """What is trained of a part without adapters."""
    tensors = parts.parameters_of(name)
    if config.only is None:
        return tensors
    linears = _linears(parts, name, config)
    return {path: parameter for path, parameter in tensors.items() if is_within(path, linears)}


def _linears(parts: VLMParts, name: PartName, config: PartConfig) -> list[str]:
    if name == "projector":
        linears = parts.projector_linears()
    elif name == "language_model":
        linears = parts.text_linears()
    else:
        linears = linears_within(dict(parts.model.named_modules()), (parts.vision_tower,))
        linears = {path: linear for path, linear in linears.items() if not is_within(path, parts.projector)}
    names = [path for path in linears if config.only is None or _is_attention(path.removeprefix(parts.language_model))]
    if not names:
        what = "linear layers" if config.only is None else f"linear layers of {config.only}"
        raise ModelError(
            f"parts.{name}.train is {config.train}, but that part of {type(parts.model).__name__} has no {what} to "
            "train; set it to full or frozen"
        )
    return names


def _is_attention(path: str) -> bool:
    """Whether a linear belongs to an attention block, by the names that Transformers gives them."""
    return any("attn" in step or "attention" in step for step in path.split(".")[:-1])
