"""A base under an adapter as a checkpoint: PEFT merges one module at a time, as its rows are asked for."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from textanchor.diffs.adapters import Adapter, asking_peft
from textanchor.diffs.checkpoint import Checkpoint
from textanchor.diffs.headers import StoredTensor
from textanchor.errors import ModelError
from textanchor.vlm.names import joined

MERGE_AS_A_WHOLE = "where merge_and_unload merges it as a whole, give the folder that save_pretrained then writes"


class AdaptedCheckpoint:
    """What an adapter changes of its base, under the model's own names; everything else is the base's."""

    def __init__(self, adapter: Adapter, base: Checkpoint, base_names: Mapping[str, str]) -> None:
        """`base_names`: the model's own name -> name in the base. ModelError where PEFT cannot merge the adapter."""
        self.label = str(adapter.folder)
        self.adapter, self.base, self.base_names = adapter, base, base_names
        self.tensors: dict[str, StoredTensor] = {}
        """Tensors that the adapter changes or may change."""
        self._module_of: dict[str, str] = {}
        self._merged: tuple[str, dict[str, Tensor]] = ("", {})
        for path, module in adapter.modules.items():
            for own_name, tensor in module.plain.state_dict().items():
                name = joined(path, own_name)
                self.tensors[name], self._module_of[name] = self._in_base(name, tuple(tensor.shape)), path
        for name, file_name in adapter.whole.items():
            if name not in self._module_of:
                self.tensors[name] = adapter.weights.tensors[file_name]
        smallest = min(adapter.modules, key=lambda path: self._size(path), default=None)
        if smallest is not None:  # PEFT says only at merging that it cannot
            self.merged(smallest)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows of the merged tensor as (stop - start, row size); in float32 where a module is adapted."""
        if name not in self._module_of:
            return self.adapter.weights.rows(self.adapter.whole[name], start, stop)
        path, stored = self._module_of[name], self.tensors[name]
        values = self.merged(path)[name]
        return values.reshape(stored.num_rows, stored.row_size)[start:stop]

    def steps(self, name: str, start: int, stop: int) -> None:
        """None: what PEFT merges is not quantised."""

    def is_adapted(self, name: str) -> bool:
        """Whether a tensor is one of a module that the adapter changes, rather than replaced or left."""
        return name in self._module_of

    def update_rows(self, name: str, start: int, stop: int) -> Tensor:
        """Rows of what the adapter adds to the base's tensor, in float32."""
        return self.rows(name, start, stop) - self.base.rows(self.base_names[name], start, stop).float()

    def merged(self, path: str) -> dict[str, Tensor]:
        """The tensors of one module after PEFT's merge, in float32; those of the last one are kept."""
        if self._merged[0] != path:
            self._merged = (path, self._merge(path))
        return self._merged[1]

    @torch.no_grad()
    def _merge(self, path: str) -> dict[str, Tensor]:
        from peft import inject_adapter_in_model
        from peft.tuners.tuners_utils import BaseTunerLayer

        adapted = self.adapter.modules[path]
        plain: Any = copy.deepcopy(adapted.plain).to_empty(device="cpu").float()
        for name, tensor in plain.state_dict().items():
            tensor.copy_(self.base.whole(self.base_names[joined(path, name)]))
        root = _alone(path, plain)
        values = {key: self.adapter.weights.whole(name) for key, name in adapted.file_names.items()}
        kind = self.adapter.config.peft_type.value
        with asking_peft(self.adapter.folder, f"merge this adapter ({kind}) into {path} alone", MERGE_AS_A_WHOLE):
            inject_adapter_in_model(adapted.config, root)
            layer: Any = root.get_submodule(path)
            layer.load_state_dict(values, strict=False)
            for part in layer.modules():  # one in another where several parameters of a module are adapted
                if isinstance(part, BaseTunerLayer):
                    part.merge()
        return {joined(path, name): tensor for name, tensor in layer.get_base_layer().state_dict().items()}

    def _in_base(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        stored = self.base.tensors.get(self.base_names.get(name, ""))
        if stored is None or stored.shape != shape:
            found = "in another layout" if stored is None else f"with shape {stored.shape}"
            raise ModelError(
                f"{self.label}: it adapts {name}, which has shape {shape} in the model and is stored {found} in "
                f"{self.base.label}; load that base with from_pretrained, write it with save_pretrained(..., "
                "save_original_format=False), and give that folder"
            )
        return stored

    def _size(self, path: str) -> int:
        return sum(self.tensors[joined(path, name)].num_bytes for name in self.adapter.modules[path].plain.state_dict())


def _alone(path: str, module: nn.Module) -> nn.Module:
    """A model of nothing but that module, at its own path: patterns of ranks and scales are of whole paths."""
    root = parent = nn.Module()
    *steps, last = path.split(".")
    for step in steps:
        child = nn.Module()
        parent.add_module(step, child)
        parent = child
    parent.add_module(last, module)
    return root
