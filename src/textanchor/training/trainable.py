"""Set up what is trained: nothing but what the configuration names, part by part.

Tensors trained in full are trained in place; low-rank updates are PEFT's, on an explicit list of full module names,
because a suffix such as `q_proj` also names linears of the vision tower.
"""

import re
import warnings
from collections.abc import Mapping

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from textanchor.errors import ModelError
from textanchor.training.config import PART_NAMES, PartConfig, PartName, PartsConfig
from textanchor.vlm.names import base_parameters, is_within, peft_layers, unwrapped
from textanchor.vlm.parts import VLMParts, find_parts, linears_within


def set_up_training(model: nn.Module, config: PartsConfig, *, seed: int) -> VLMParts:
    """Freeze all but what `config` trains, wrapping the model in PEFT where it asks for LoRA; `.model` is what to
    train.

    LoRA starts at an update of zero, its A drawn with `seed`. ModelError naming the key where a part has nothing to
    train in that way, and where a tensor is not float32.
    """
    if getattr(unwrapped(model).config, "is_encoder_decoder", False):
        raise ModelError(
            f"{type(model).__name__} is an encoder-decoder, whose answers do not continue the prompt; adapt trains "
            "models with a decoder only"
        )
    parts = find_parts(model, **{name: getattr(config, name).path for name in PART_NAMES})
    model.requires_grad_(False)
    targets: dict[PartName, list[str]] = {
        name: _linears(parts, name) for name, part in config.trained().items() if part.train == "lora"
    }
    if targets:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = _with_lora(model, targets, config.trained())
        parts = VLMParts.from_dict(model, parts.to_dict())
    for name, part in config.trained().items():
        if part.train == "full":
            for parameter in parts.parameters_of(name).values():
                parameter.requires_grad_(True)
    for name, parameter in base_parameters(model).items():
        if parameter.dtype != torch.float32:
            raise ModelError(
                f"{name} is {parameter.dtype}, but adapt takes models in float32 only: small steps, and updates merged "
                "into the weights, are lost in the rounding of anything less; load the model with dtype=torch.float32 "
                "(training.precision: bfloat16 still computes in bfloat16)"
            )
    return parts


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Base name to parameter of everything that is trained."""
    return {name: parameter for name, parameter in base_parameters(model).items() if parameter.requires_grad}


def num_trained(parts: VLMParts) -> dict[str, int]:
    """Number of trained values of each part."""
    trained = trained_parameters(parts.model)
    return {part: sum(p.numel() for name, p in trained.items() if parts.part_of(name) == part) for part in PART_NAMES}


def _linears(parts: VLMParts, name: PartName) -> list[str]:
    if name == "projector":
        linears = parts.projector_linears()
    elif name == "language_model":
        linears = parts.text_linears()
    else:
        linears = linears_within(dict(parts.model.named_modules()), (parts.vision_tower,))
        linears = {path: linear for path, linear in linears.items() if not is_within(path, parts.projector)}
    if not linears:
        raise ModelError(
            f"parts.{name}.train is lora, but that part of {type(parts.model).__name__} has no linear layers to put it "
            "on; set it to full or frozen"
        )
    return list(linears)


def _with_lora(
    model: nn.Module, targets: Mapping[PartName, list[str]], configs: Mapping[PartName, PartConfig]
) -> nn.Module:
    names = [path for paths in targets.values() for path in paths]
    first = configs[next(iter(targets))]
    lora = LoraConfig(
        target_modules=names,
        r=_rank(first),
        lora_alpha=first.alpha,  # pyright: ignore[reportArgumentType] -- PEFT divides by it; any number will do
        rank_pattern={re.escape(path): _rank(configs[part]) for part, paths in targets.items() for path in paths},
        alpha_pattern={re.escape(path): configs[part].alpha for part, paths in targets.items() for path in paths},
    )
    with warnings.catch_warnings():
        # PEFT 0.21 asks Transformers 5.23 for a property that it has renamed
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        wrapped = get_peft_model(model, lora)  # pyright: ignore[reportArgumentType]
    hit = set(peft_layers(wrapped))
    if hit != set(names):
        raise ModelError(f"PEFT put LoRA on other layers than asked for: {', '.join(sorted(hit ^ set(names)))}")
    return wrapped


def _rank(config: PartConfig) -> int:
    assert config.rank is not None  # set by PartConfig where train is lora
    return config.rank
