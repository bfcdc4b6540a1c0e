"""Both checkpoints of a diff: opened, named by one model's structure, and matched."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers.utils import CONFIG_NAME

from textanchor.diffs.adapted import AdaptedCheckpoint
from textanchor.diffs.adapters import read_adapter
from textanchor.diffs.checkpoint import Checkpoint, checkpoint_of_tensors
from textanchor.diffs.compare import Source, compare
from textanchor.diffs.folders import ADAPTER_CONFIG, is_adapter_folder, open_files
from textanchor.diffs.matching import Matching, NamedTensors, match, named_tensors
from textanchor.diffs.merges import ExpectedUpdate
from textanchor.diffs.storage import dequantised
from textanchor.diffs.structure import ALL_LOOKED_FOR, PartNames, Structure
from textanchor.errors import ConfigError, DataError, ModelError
from textanchor.vlm.loading import EMBEDDED, HUB_ID, hub_folder, load_vlm
from textanchor.vlm.weight_files import listed

Given = str | Path | Mapping[str, Tensor] | nn.Module
"""A folder, a file, a hub id, "embedded", a state dict, or a model."""


class Pair:
    """Both checkpoints, opened and matched."""

    def __init__(
        self, base: Given, tuned: Given, adapter: str | Path | None = None, names: PartNames = ALL_LOOKED_FOR
    ) -> None:
        base, tuned = _resolved(base), _resolved(tuned)
        self.base = _opened(base, "base")
        if self.base.refusal:
            raise ModelError(f"{self.base.label}: from_pretrained cannot load the base: {self.base.refusal}")
        if problems := (*self.base.problems, *self.base.not_held):
            raise ModelError(f"{self.base.label}: the base is incomplete: {problems[0]}; copy it again")
        self.is_adapter = isinstance(tuned, Path) and is_adapter_folder(tuned)
        tuned_files = None if self.is_adapter else _opened(tuned, "tuned checkpoint")
        self.structure = _structure(base, tuned, self.base, tuned_files, names)
        self.base_names = named_tensors(self.base.tensors, self.structure)
        self.merged_adapter: AdaptedCheckpoint | None = None
        self.unchecked_adapter = ""
        if isinstance(tuned, Path) and self.is_adapter:
            self._take_adapter(tuned, adapter)
        else:
            assert tuned_files is not None
            self.tuned, self.label = tuned_files, tuned_files.label
            self.problems = (*tuned_files.problems, *tuned_files.not_held)
            self.loaded, self.strays = f"from_pretrained reads {listed(tuned_files.files)}", tuned_files.strays
            self.refusal = tuned_files.refusal or self._lacks_config(tuned)
            in_memory = bool(tuned_files.memory)
            self.tuned_names = named_tensors(tuned_files.tensors, self.structure, any_wrapper=in_memory)
            self.matching = match(self.base_names, self.base, self.tuned_names, tuned_files, self.structure)
            if in_memory or self.base.memory:  # names in memory are not those of a version
                self.matching = replace(self.matching, renamed=0)
            self._find_adapter(tuned_files.folder, adapter)
        self.is_tied_by_config = self._is_tied_by_config()
        _require_one_model(self)

    def _take_adapter(self, folder: Path, adapter: str | Path | None) -> None:
        if adapter is not None:
            raise ConfigError("adapter is for a merged model; the tuned checkpoint is an adapter itself: leave it out")
        self.tuned = self._adapted(folder)
        found = self.tuned.adapter
        self.label, self.problems, self.refusal = f"{folder} (adapter)", found.problems, ""
        self.loaded, self.strays = f"PEFT reads {listed(found.weights.files)}", found.weights.strays
        known = self.tuned.base_names
        unknown = tuple(file_name for name, file_name in found.whole.items() if name not in known)
        self.tuned_names = NamedTensors({}, {}, (), unknown)
        self.matching = Matching({name: (known[name], name) for name in self.tuned.tensors if name in known})

    def _lacks_config(self, tuned: Any) -> str:
        """Why a tuned folder without config.json cannot be loaded, where the base shows that there should be one."""
        is_bare = isinstance(tuned, Path) and tuned.is_dir() and self.base.folder is not None
        if not is_bare or (tuned / CONFIG_NAME).is_file():
            return ""
        return f"there is no {CONFIG_NAME} in it; copy that of the base, and the other files beside its weights"

    def _find_adapter(self, folder: Path | None, adapter: str | Path | None) -> None:
        """The adapter that the user names, or one that lies beside the weights."""
        if adapter is not None:
            self.merged_adapter = self._adapted(Path(adapter))
        elif folder is not None and (folder / ADAPTER_CONFIG).is_file():
            try:
                self.merged_adapter = self._adapted(folder)
            except (ModelError, DataError) as error:
                self.unchecked_adapter = str(error)

    def _adapted(self, folder: Path) -> AdaptedCheckpoint:
        names = dict(self.base_names.stored_names)
        for tied, source in self.structure.tied.items():
            if tied not in names and source in names:
                names[tied] = names[source]
        return AdaptedCheckpoint(read_adapter(folder, self.structure), self.base, names)

    def expected_update(self, name: str) -> ExpectedUpdate | None:
        """What the adapter that was merged adds to a tensor; None where there is none or it adds nothing."""
        merged = self.merged_adapter
        if merged is None or not merged.is_adapted(name):
            return None
        return ExpectedUpdate(partial(merged.update_rows, name), merged.adapter.roundings)

    def _is_tied_by_config(self) -> bool:
        folder = self.tuned.folder if isinstance(self.tuned, Checkpoint) else None
        tied = self.structure if folder is None else Structure.of_folder(folder)
        head = self._head()
        return head is not None and head in tied.tied

    def _head(self) -> str | None:
        return next((name for name in self.structure.tied if self.structure.group_of(name) == "head"), None)

    def is_head_untied(self) -> bool:
        """Whether head and embedding are one in the base, and both are in the tuned checkpoint with other values."""
        head = self._head()
        names = self.tuned_names.stored_names
        source = None if head is None else self.structure.tied[head]
        if head not in names or source not in names:
            return False
        first, second = (Source(self.tuned, names[name]) for name in (source, head))
        return compare(first, second).status not in ("equal", "rounding")

    def notes(self) -> list[str]:
        """How parts were found, and what a reader should know."""
        parts = self.structure.parts
        if parts is None:
            why = self.structure.not_found or "there is no config.json beside the weights, and no model was given"
            return [f"parts are told by names alone: {why}"]
        found = [f"{part}: {how}" for part, how in parts.found_by.items()]
        if isinstance(self.tuned, AdaptedCheckpoint):
            found.append("the adapter leaves all other tensors as they are in the base")
        for adapted in (self.tuned, self.merged_adapter):
            if isinstance(adapted, AdaptedCheckpoint) and adapted.adapter.unknown_settings:
                names = ", ".join(adapted.adapter.unknown_settings)
                found.append(
                    f"{adapted.label}: settings that this version of PEFT does not know and leaves out: {names}"
                )
        return found


def _resolved(given: Given) -> Path | Mapping[str, Tensor] | nn.Module:
    if not isinstance(given, str | Path):
        return given
    if str(given) == EMBEDDED:
        return load_vlm(EMBEDDED)[0]
    path = Path(given)
    return hub_folder(str(given)) if not path.exists() and HUB_ID.fullmatch(str(given)) else path


def _opened(given: Path | Mapping[str, Tensor] | nn.Module, label: str) -> Checkpoint:
    if isinstance(given, Path):
        if is_adapter_folder(given):
            raise ModelError(f"{given}: holds an adapter, expected the {label}'s weights; give the model's own folder")
        return dequantised(open_files(given))
    if isinstance(given, nn.Module):
        return dequantised(checkpoint_of_tensors(given.state_dict(), type(given).__name__))
    return dequantised(checkpoint_of_tensors(given, f"{label} (state dict)"))


def _structure(
    base: Any, tuned: Any, base_files: Checkpoint, tuned_files: Checkpoint | None, names: PartNames
) -> Structure:
    """From the base's configuration or model, else from the tuned one's, else from names alone."""
    for given, files in ((base, base_files), (tuned, tuned_files)):
        if isinstance(given, nn.Module) and hasattr(given, "base_model_prefix"):
            return Structure.of_model(given, names)
        if files is not None and files.folder is not None:
            return Structure.of_folder(files.folder, names)
    if names.any:
        raise ConfigError(
            f"{base_files.label}: parts can be named only where the model is known; give the base's folder with "
            "config.json, or leave the names out"
        )
    return Structure()


def _require_one_model(pair: Pair) -> None:
    if not pair.is_adapter and not pair.matching.pairs and not pair.problems and not pair.tuned_names.unexpected:
        raise ModelError(
            f"{pair.label}: no tensor of it has a counterpart in {pair.base.label}; give the base that it was "
            "tuned from"
        )
