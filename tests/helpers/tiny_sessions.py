"""A run that is set up and not trained, for tests of what methods add to it."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_runs import run_config
from textanchor.training.method import load_method
from textanchor.training.session import Session
from textanchor.training.trainable import set_up_training, trained_parameters
from textanchor.training.updates import StartWeights


def session(folder: Path, **changes: Any) -> Session:
    """Of `run_config(**changes)` on the tiny LLaVA."""
    model, processor = tiny_llava_with_processor()
    config = run_config(folder / "out", **changes)
    method = load_method(config.method)
    parts = set_up_training(model, config.trained_parts, seed=0, method=method, processor=processor)
    return Session(config, processor, parts, "", StartWeights(parts), folder, is_resumed=False)


def moved(run: Session, size: float, *, within: str = "") -> None:
    """Add noise to the trained tensors whose names begin with `within`."""
    with torch.no_grad():
        for name, parameter in trained_parameters(run.model).items():
            if name.startswith(within):
                parameter += size * torch.randn_like(parameter)


def merged_weights(run: Session, before: nn.Module) -> dict[str, Tensor]:
    """Change of every parameter of the merged model against `before`; ends the session's use of PEFT."""
    model: Any = run.model
    plain = model.merge_and_unload() if hasattr(model, "peft_config") else model
    now = dict(plain.named_parameters())
    return {name: (now[name] - start).detach() for name, start in before.named_parameters()}
