"""A tiny LLaVA with its anchor, ways to train its parts, and what holds need to be tested on them."""

import string
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch import Tensor, nn

from helpers.tiny_chat import VOCAB, tiny_chat_model
from textanchor.holds import Anchor, FilterConfig, HoldPlan, Probe, fit_anchor, plan_holds, take_probe
from textanchor.vlm.parts import VLMParts, find_parts


def noise_images(count: int, seed: int = 0) -> list[Image.Image]:
    """Random images of differing brightness, so that their states span many directions."""
    generator = np.random.default_rng(seed)
    pixels = generator.random((count, 32, 32, 3)) * generator.uniform(40, 255, (count, 1, 1, 3))
    return [Image.fromarray(image.astype(np.uint8)) for image in pixels]


def letter_texts(count: int, length: int = 40, seed: int = 0) -> list[str]:
    """Random letters, digits and signs, some far more frequent than others: more kinds than states are wide."""
    generator = np.random.default_rng(seed)
    letters = np.array(list(string.ascii_letters + string.digits + string.punctuation))
    frequencies = 1 / np.arange(1, len(letters) + 1)
    rows = generator.choice(letters, size=(count, length), p=frequencies / frequencies.sum())
    return ["".join(row) for row in rows]


@cache
def tiny_anchor() -> Anchor:
    """Anchor of `tiny_model()`."""
    model, processor = tiny_chat_model("llava")
    return fit_anchor(model, processor, letter_texts(20), noise_images(8))


def tiny_model() -> Any:
    """The tiny LLaVA that `tiny_anchor` was fitted on, nothing of it trained."""
    return tiny_chat_model("llava")[0].requires_grad_(False)


def trained_in_full(part: str) -> VLMParts:
    """Parts of a fresh tiny model in which one part is trained."""
    parts = find_parts(tiny_model())
    for parameter in parts.parameters_of(part).values():  # pyright: ignore[reportArgumentType]
        parameter.requires_grad_(True)
    return parts


def trained_by_lora(linears: Iterable[str] | None = None, **options: Any) -> VLMParts:
    """Parts of a fresh tiny model with LoRA on the named linears, by default on all of projector and language model."""
    parts = find_parts(tiny_model())
    names = [*parts.projector_linears(), *parts.text_linears()] if linears is None else list(linears)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=names, **options)
    return find_parts(get_peft_model(parts.model, config))  # pyright: ignore[reportArgumentType]


def plan_for(parts: VLMParts, part: str = "projector", **options: Any) -> HoldPlan:
    """Plan with one filter on one part, eight directions by default."""
    amount = {} if {"num_kept", "kept_fraction", "kept_energy"} & set(options) else {"num_kept": 8}
    return plan_holds(parts, tiny_anchor(), {part: FilterConfig(**({"mode": "outputs"} | amount | options))})


def probe_of(parts: VLMParts) -> Probe:
    """Probe on images that the anchor has not seen."""
    return take_probe(parts, lambda: image_features(parts, noise_images(6, seed=9)))


def image_features(parts: VLMParts, images: list[Image.Image]) -> Tensor:
    """Visual tokens of images."""
    pixels = tiny_chat_model("llava")[1].image_processor(images=images, return_tensors="pt")["pixel_values"]
    model = parts.model.get_base_model() if hasattr(parts.model, "get_base_model") else parts.model  # pyright: ignore
    return torch.cat(list(model.get_image_features(pixel_values=pixels).pooler_output))  # pyright: ignore


def trained_parameters(parts: VLMParts) -> list[nn.Parameter]:
    """What an optimizer is given."""
    return [parameter for parameter in parts.model.parameters() if parameter.requires_grad]


def projector_loss(parts: VLMParts, seed: int = 0) -> Callable[[], Tensor]:
    """Loss that moves the projector's outputs towards random targets."""
    generator = torch.Generator().manual_seed(seed)
    features_BLD = torch.randn(4, 16, 24, generator=generator)
    targets_BLD = 3 * torch.randn(4, 16, 32, generator=generator)
    projector = parts.module(parts.projector[0])
    return lambda: (projector(features_BLD) - targets_BLD).square().mean()


def text_loss(parts: VLMParts, seed: int = 0) -> Callable[[], Tensor]:
    """Loss that moves the language model's states towards random targets."""
    generator = torch.Generator().manual_seed(seed)
    ids_BL = torch.randint(5, VOCAB, (3, 10), generator=generator)
    dtype = next(parts.model.parameters()).dtype
    targets_BLD = torch.randn(3, 10, 32, generator=generator, dtype=dtype)
    language_model = parts.module(parts.language_model)
    return lambda: (language_model(input_ids=ids_BL).last_hidden_state - targets_BLD).square().mean()


def train(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer, steps: int = 50) -> None:
    """Plain loop."""
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


def start_weights(parts: VLMParts) -> dict[str, Tensor]:
    """Copies of all parameters."""
    return {name: parameter.detach().clone() for name, parameter in parts.model.named_parameters()}
