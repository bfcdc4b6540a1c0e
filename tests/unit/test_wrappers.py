"""One table of what engines put into the names of a model's tensors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.optim.swa_utils import AveragedModel

from helpers.tiny_models import tiny_vlm
from textanchor.vlm.names import INNER_WRAPPERS, OUTER_WRAPPERS, without_wrappers

PROJECTOR = "model.multi_modal_projector.linear_1.weight"


def with_checkpointed_layer(model: Any) -> nn.Module:
    model.model.language_model.layers[0] = checkpoint_wrapper(model.model.language_model.layers[0])
    return model


def with_compiled_layer(model: Any) -> nn.Module:
    model.model.language_model.layers[0] = torch.compile(model.model.language_model.layers[0])
    return model


MADE: dict[str, Callable[[Any], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "torch.compile": lambda model: torch.compile(model),  # pyright: ignore[reportReturnType]
    "torch.compile of a layer": with_compiled_layer,
    "DataParallel of torch.compile": lambda model: nn.DataParallel(torch.compile(model)),  # pyright: ignore[reportArgumentType]
    "checkpointed layer": with_checkpointed_layer,
    "PEFT": lambda model: get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])),
    "PEFT, with a saved part": lambda model: get_peft_model(
        model, LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["multi_modal_projector"])
    ),
    "PEFT, by another name": lambda model: get_peft_model(
        model,
        LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["multi_modal_projector"]),
        adapter_name="second_one",
    ),
    "PEFT, rows of tokens": lambda model: get_peft_model(
        model, LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[1])
    ),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # by torch.compile
@pytest.mark.parametrize("kind", MADE)
def test_names_of_a_wrapped_model_are_those_of_the_plain_one(kind: str) -> None:
    plain = tiny_vlm("llava").state_dict()
    wrapped = MADE[kind](tiny_vlm("llava"))
    for names in (wrapped.state_dict(), dict(wrapped.named_parameters())):
        found = {without_wrappers(name) for name in names if "lora_" not in name and "tokens_" not in name}
        assert set(plain) <= found
        assert {name for name in found - set(plain) if ".original_module." not in name} <= {"n_averaged"}


@pytest.mark.parametrize("wrapper", [*OUTER_WRAPPERS, *INNER_WRAPPERS])
def test_each_wrapper_of_the_table_is_taken_off(wrapper: str) -> None:
    first = wrapper.replace("*", "default") + PROJECTOR
    assert without_wrappers(first) == PROJECTOR
    assert without_wrappers(f"module._orig_mod.{first}") == PROJECTOR
    within = PROJECTOR.replace("linear_1.", "linear_1." + wrapper.replace("*", "my_adapter"))
    assert (without_wrappers(within) == PROJECTOR) is (wrapper in INNER_WRAPPERS)


def test_names_of_the_models_own_stay() -> None:
    for name in ("model.module.weight", "vision.base_layers.0.weight", "model.my_orig_mod.weight", "modules.0.bias"):
        assert without_wrappers(name) == name
