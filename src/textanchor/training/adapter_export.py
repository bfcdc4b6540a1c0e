"""The other form of a run's output: PEFT's LoRA with the parts that were trained in full, to be put on the base model.

`PeftModel.from_pretrained(base_model, folder)` loads it; nothing of ours is needed. It is checked by doing so.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from textanchor.errors import ModelError
from textanchor.outputs import writing
from textanchor.training.export import ReloadCheck, largest, logits_of
from textanchor.training.session import Session
from textanchor.training.trainable import trained_parameters
from textanchor.training.updates import ADAPTER
from textanchor.vlm.names import PEFT_MODEL, base_parameters, is_within, peft_layers, plain_parameters
from textanchor.vlm.parts import VLMParts

WEIGHTS = "adapter_model.safetensors"


def saved_modules(parts: VLMParts, full: Mapping[str, Tensor]) -> list[str]:
    """Base names of the modules that hold the tensors trained in full, for PEFT's `modules_to_save`.

    ModelError where one is a bare parameter, which PEFT cannot save whole, or where a linear in it has LoRA.
    """
    paths = {"projector": parts.projector, "vision_tower": (parts.vision_tower,)}
    names = [path for part in sorted({parts.part_of(name) for name in full}) for path in paths[part]]
    for path in names:
        if path in plain_parameters(parts.model):
            raise ModelError(
                f"{path} is a parameter and no module, which PEFT cannot save beside LoRA; set export: plain"
            )
        overlap = [layer for layer in peft_layers(parts.model) if is_within(layer, path)]
        if overlap:
            raise ModelError(f"{overlap[0]} has LoRA inside {path}, which is to be saved whole; set export: plain")
    return names


@torch.no_grad()
def save_adapter_checked(
    session: Session, folder: Path, *, batch: Mapping[str, Tensor], logits: Tensor
) -> tuple[Any, ReloadCheck]:
    """Write adapter and processor into `folder`, load them with PEFT alone onto the base weights, and compare.

    `logits` are those of `batch` from the model as it was trained. Gives the merged plain model; the session's model is
    used up. ModelError where a tensor or the logits come back different.
    """
    model: Any = session.model
    whole = saved_modules(session.parts, session.start.full)
    config = copy.deepcopy(model.peft_config[ADAPTER])
    config.modules_to_save, config.inference_mode = whole or None, True
    config.base_model_name_or_path = session.config.model
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    for path in whole:
        state = session.parts.module(path).state_dict()
        tensors |= {f"{PEFT_MODEL}{path}.{name}": tensor for name, tensor in state.items()}
    with writing(folder, num_bytes=sum(tensor.nbytes for tensor in tensors.values())):
        packed = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        save_file(packed, folder / WEIGHTS, {"format": "pt"})
        config.save_pretrained(folder)
        session.processor.save_pretrained(folder)
    trained = {name: parameter.detach().clone() for name, parameter in trained_parameters(model).items()}
    return _reloaded(session, folder, trained, batch, logits)


def _reloaded(
    session: Session, folder: Path, trained: Mapping[str, Tensor], batch: Mapping[str, Tensor], logits: Tensor
) -> tuple[Any, ReloadCheck]:
    plain: nn.Module = session.model.unload()  # pyright: ignore[reportCallIssue] -- the base model, LoRA taken off
    for name, start in session.start.full.items():
        plain.get_parameter(name).copy_(start)
    loaded: Any = PeftModel.from_pretrained(plain, folder)  # pyright: ignore[reportArgumentType]
    now = base_parameters(loaded)
    lost = tuple(name for name, tensor in trained.items() if name not in now or not torch.equal(now[name], tensor))
    reload_difference = largest(logits_of(loaded, batch) - logits)
    merged = loaded.merge_and_unload()
    check = ReloadCheck(
        reload_max_difference=reload_difference,
        merge_max_difference=largest(logits_of(merged, batch) - logits),
        trained_not_saved=lost,
        other_tensors_changed=(),
    )
    check.require(folder, largest(logits))
    return merged, check
