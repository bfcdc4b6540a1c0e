"""Both checkpoints of a diff: opened, named by one model's structure, and matched."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers.utils import CONFIG_NAME

from textanchor.diffs.adapted import AdaptedCheckpoint
from textanchor.diffs.adapters import AdaptedModule, read_adapter
from textanchor.diffs.checkpoint import Checkpoint, checkpoint_of_tensors
from textanchor.diffs.compare import Source, compare
from textanchor.diffs.folders import ADAPTER_CONFIG, is_adapter_folder, open_files
from textanchor.diffs.loading import LoadReport, load_report
from textanchor.diffs.matching import Matching, NamedTensors, match, named_tensors
from textanchor.diffs.merges import ExpectedUpdate
from textanchor.diffs.storage import dequantised
from textanchor.diffs.structure import ALL_LOOKED_FOR, PartNames, Structure
from textanchor.errors import ConfigError, DataError, ModelError
from textanchor.files import read_json
from textanchor.vlm.loading import EMBEDDED, HUB_ID, hub_folder, load_vlm
from textanchor.vlm.weight_files import listed

Given = str | Path | Mapping[str, Tensor] | nn.Module
"""A folder, a file, a hub id, "embedded", a state dict, or a model."""
OF_THE_FILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "quantization_config")
"""Entries of config.json that say how its weights were stored, and by whom."""


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
        self._base_report = self._require_loadable_base()
        self.merged_adapter: AdaptedCheckpoint | None = None
        self.unchecked_adapter = ""
        if isinstance(tuned, Path) and self.is_adapter:
            self._take_adapter(tuned, adapter)
        else:
            assert tuned_files is not None
            self._take_files(tuned, tuned_files)
            self._find_adapter(tuned_files.folder, adapter)
        self.is_tied_by_config = self._is_tied_by_config()
        _require_one_model(self)

    def _require_loadable_base(self) -> LoadReport | None:
        """How the base's files load; ModelError where that leaves tensors without their values."""
        if self.base.folder is None or self.structure.model is None:
            return None
        report = load_report(self.structure, self.base.tensors)
        if report.refusal:
            raise ModelError(f"{self.base.label}: from_pretrained cannot load the base: {report.refusal}")
        if report.missing:
            raise ModelError(
                f"{self.base.label}: the base is incomplete: {report.missing[0]} is missing ({len(report.missing)} "
                "tensors in all), which from_pretrained would fill with random numbers; copy it again, or give the "
                "folder that the model was loaded from before it was tuned"
            )
        return report

    def _take_files(self, tuned: Any, files: Checkpoint) -> None:
        self.tuned, self.label = files, files.label
        self.problems = (*files.problems, *files.not_held)
        self.loaded, self.strays = f"from_pretrained reads {listed(files.files)}", files.strays
        self.refusal = files.refusal or self._lacks_config(tuned)
        self.tuned_structure = self._structure_of(files)
        in_memory = bool(files.memory)
        self.tuned_names = named_tensors(files.tensors, self.tuned_structure, any_wrapper=in_memory)
        report = self._report_on(files)
        if report is not None and not self.problems:
            self.refusal = self.refusal or report.refusal
        self.matching = match(
            self.base_names,
            self.base,
            self.tuned_names,
            files,
            self.structure,
            tuned_structure=self.tuned_structure,
            not_loaded=None if report is None else report.missing,
        )
        if in_memory or self.base.memory:  # names in memory are not those of a version
            self.matching = replace(self.matching, renamed=0)

    def _structure_of(self, tuned: Checkpoint) -> Structure:
        """Of the tuned folder, by its own config.json; the base's where that says the same, or cannot be used."""
        if tuned.folder is None or self.structure.model is None or self._is_described_alike(tuned.folder):
            return self.structure
        try:
            return Structure.of_names(tuned.folder)
        except ModelError as error:
            self.refusal = self.refusal or str(error)
            return self.structure

    def _is_described_alike(self, folder: Path) -> bool:
        if self.base.folder is None:
            return False
        first, second = (without_provenance(read_json(path / CONFIG_NAME)) for path in (self.base.folder, folder))
        return first == second

    def _report_on(self, tuned: Checkpoint) -> LoadReport | None:
        """How the tuned files load; of a state dict, which is none, nobody was asked."""
        if tuned.folder is None or self.tuned_structure.model is None or self.refusal:
            return None
        shapes = [{name: t.shape for name, t in files.tensors.items()} for files in (self.base, tuned)]
        if self.tuned_structure is self.structure and shapes[0] == shapes[1]:
            return self._base_report
        return load_report(self.tuned_structure, tuned.tensors)

    def _take_adapter(self, folder: Path, adapter: str | Path | None) -> None:
        if adapter is not None:
            raise ConfigError("adapter is for a merged model; the tuned checkpoint is an adapter itself: leave it out")
        self.tuned = self._adapted(folder)
        found = self.tuned.adapter
        self.label, self.problems, self.refusal = f"{folder} (adapter)", found.problems, ""
        self.loaded, self.strays = f"PEFT reads {listed(found.weights.files)}", found.weights.strays
        known = self.tuned.base_names
        unknown = tuple(file_name for name, file_name in found.whole.items() if name not in known)
        self.tuned_names, self.tuned_structure = NamedTensors({}, {}, (), unknown), self.structure
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
            self.merged_adapter = self._whole_adapter(Path(adapter))
        elif folder is not None and (folder / ADAPTER_CONFIG).is_file():
            try:
                self.merged_adapter = self._whole_adapter(folder)
            except (ModelError, DataError) as error:
                self.unchecked_adapter = str(error)

    def _whole_adapter(self, folder: Path) -> AdaptedCheckpoint:
        """An adapter of which all is applied; ModelError where that is not so, as what was merged is then not known."""
        adapted = self._adapted(folder)
        found = adapted.adapter
        if found.problems:
            raise ModelError(f"{folder}: incomplete: {found.problems[0]}")
        if found.unmatched:
            raise ModelError(
                f"{folder}: PEFT finds no place in this base for {len(found.unmatched)} of the adapter's "
                f"{len(found.weights.tensors)} tensors ({found.unmatched[0]}); give the adapter that was merged, and "
                "the base that it was trained on"
            )
        bad = next((name for module in found.modules.values() for name in _not_finite(found.weights, module)), None)
        if bad is not None:
            raise ModelError(
                f"{folder}: {bad} is NaN or infinite in part, so nobody knows what was merged; leave it out"
            )
        return adapted

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
        return self._head() in self.tuned_structure.tied

    def _head(self) -> str | None:
        return next((name for name in self.structure.tied if self.structure.group_of(name) == "head"), None)

    def is_head_untied(self) -> bool:
        """Whether head and embedding are one in the base, and come apart in the tuned checkpoint."""
        head = self._head()
        if head is None:
            return False
        source, names = self.structure.tied[head], self.tuned_names.stored_names
        if isinstance(self.tuned, AdaptedCheckpoint):
            names = {name: name for name in self.tuned.tensors}
            if (head in names) != (source in names):
                return head not in self.tuned.adapter.tied
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


def _not_finite(weights: Checkpoint, module: AdaptedModule) -> Iterator[str]:
    """Names of a module's tensors in an adapter's file that hold NaN or infinite entries."""
    return (name for name in module.file_names.values() if not weights.whole(name).float().isfinite().all())


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


def without_provenance(config: Any) -> Any:
    """What a config.json says of the model, without what it says of the file."""
    if not isinstance(config, dict):
        return config
    return {key: without_provenance(value) for key, value in config.items() if key not in OF_THE_FILE}


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
