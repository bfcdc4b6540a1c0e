"""What `from_pretrained` of the installed Transformers makes of a checkpoint's tensors, by its own loading report.

Stand-ins of the same shapes are loaded on the meta device, so no weight is read and no memory is needed.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from textanchor.diffs.headers import StoredTensor
from textanchor.diffs.matching import LORA_FACTOR, PEFT_COPY
from textanchor.diffs.structure import Structure
from textanchor.vlm.names import without_wrappers

ZERO3 = "as ZeRO-3 leaves weights that were saved without being gathered; in the run that trained it, save it again"
"""Where empty tensors come from, and the way out."""
LOADING_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError, ImportError)
"""What Transformers raises where a checkpoint does not fit its configuration."""


@dataclass(frozen=True)
class OtherShape:
    """A tensor whose shape in the files is not the one that config.json asks for."""

    name: str
    stored: tuple[int, ...]
    asked: tuple[int, ...]

    @property
    def is_empty(self) -> bool:
        """Whether the stored one holds nothing."""
        return 0 in self.stored


@dataclass(frozen=True)
class LoadReport:
    """How a checkpoint loads as the model that its configuration describes."""

    missing: tuple[str, ...] = ()
    """Tensors of the model, in its order, that `from_pretrained` would fill with random numbers."""
    other_shapes: tuple[OtherShape, ...] = ()
    """Tensors for which it ends with an error."""
    failure: str = ""
    """Its error, where it ends with another one."""

    @property
    def refusal(self) -> str:
        """Why the checkpoint cannot be loaded, in a clause about it; empty where it can."""
        empty = [tensor for tensor in self.other_shapes if tensor.is_empty]
        if empty:
            return f"{_tensors(len(empty))} empty, of shape {empty[0].stored} ({empty[0].name}), {ZERO3}"
        if self.other_shapes:
            first = self.other_shapes[0]
            return (
                f"{_tensors(len(self.other_shapes))} of another shape than its config.json says ({first.name} is "
                f"{first.stored} in the weights, and {first.asked} by config.json); put the config.json there that was "
                "saved with these weights"
            )
        return self.failure


def load_report(structure: Structure, stored: Mapping[str, StoredTensor]) -> LoadReport:
    """How tensors load as the model of `structure`, once what wrappers and PEFT put into their names is taken off.

    Quantised weights count as the plain ones that they are decoded to.
    """
    stand_ins = {
        without_wrappers(name): torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        for name, tensor in stored.items()
        if not LORA_FACTOR.search(name) and not PEFT_COPY.search(name)
    }
    config = copy.deepcopy(structure.model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    kind: Any = type(structure.model)
    with _quiet_loading():
        try:
            _, info = kind.from_pretrained(
                None,
                config=config,
                state_dict=stand_ins,
                device_map="meta",
                ignore_mismatched_sizes=True,  # listed instead
                output_loading_info=True,
            )
        except LOADING_ERRORS as error:
            return LoadReport(failure=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    order = {name: i for i, name in enumerate(structure.shapes)}
    missing = sorted(info["missing_keys"], key=lambda name: order.get(name, len(order)))
    others = sorted(info["mismatched_keys"], key=lambda entry: order.get(entry[0], len(order)))
    return LoadReport(
        tuple(missing), tuple(OtherShape(name, tuple(found), tuple(asked)) for name, found, asked in others)
    )


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Within it Transformers prints neither its report nor a bar, and draws none of the caller's random numbers."""
    verbosity, has_bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if has_bar:
            transformers_logging.enable_progress_bar()


def _tensors(number: int) -> str:
    return "1 tensor is" if number == 1 else f"{number} tensors are"
