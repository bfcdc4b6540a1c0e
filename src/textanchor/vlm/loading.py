"""Load a vision-language model and its processor: ours, a folder, or a hub id; safetensors only, no remote code."""

import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NoReturn

import torch
from huggingface_hub import constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

import textanchor.vlm.efficientnet_tower  # noqa: F401  registers the tower, which a saved embedded model names
from textanchor.errors import ModelError
from textanchor.files import read_json
from textanchor.vlm.model_config import REJECTIONS, empty_model, read_config, said_by_transformers
from textanchor.vlm.weight_files import INDEX_FORM, listed, weight_files

EMBEDDED = "embedded"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
HUB_TIMEOUT_SECONDS = 3.0


def load_vlm(name_or_path: str | Path, *, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, Any]:
    """Model in eval mode and its processor: `"embedded"`, a folder that `save_pretrained` wrote, or a hub id.

    Only safetensors are read and remote code is never run. ModelError, with the way out, where there is no such folder,
    the hub is out of reach (found out in seconds, without retries), weights are pickled, damaged or incomplete, or the
    model takes no images.
    """
    name = str(name_or_path)
    if name == EMBEDDED:
        from textanchor.vlm.embedded import load_embedded

        model, processor = load_embedded()
        return model.to(dtype), processor  # pyright: ignore[reportArgumentType]
    local_only = _check_folder(Path(name)) if os.path.exists(name) else _check_hub(name)
    config = read_config(name, local_only=local_only)
    return _load_model(name, config, dtype, local_only), _load_processor(name, local_only)


def load_model(name_or_path: str | Path) -> PreTrainedModel:
    """The model of `load_vlm` in float32, without its processor, which may be missing."""
    name = str(name_or_path)
    if name == EMBEDDED:
        return load_vlm(EMBEDDED)[0]
    local_only = _check_folder(Path(name)) if os.path.exists(name) else _check_hub(name)
    return _load_model(name, read_config(name, local_only=local_only), torch.float32, local_only)


def empty_vlm(name_or_path: str | Path) -> PreTrainedModel:
    """The model that config.json describes, on the meta device; no weights and no processor need to be there.

    ModelError where there is no such folder or hub id, the configuration is of no vision-language model, or an index
    of weights is damaged or leads out of its folder.
    """
    name = str(name_or_path)
    if name == EMBEDDED:
        return load_vlm(EMBEDDED)[0]
    if not os.path.exists(name):  # not `Path.exists`, which fails on a name that is too long for a file
        return empty_model(name, read_config(name, local_only=_check_hub(name)))
    index = Path(name) / SAFE_WEIGHTS_INDEX_NAME
    if index.is_file():
        if reason := weight_files(Path(name)).refusal:
            raise ModelError(f"{name}: {reason}")
        if not isinstance(read_json(index), dict):  # which from_pretrained passes over beside a single file
            raise ModelError(
                f"{index}: expected an object, {INDEX_FORM}; copy it again, or remove it if nothing needs it"
            )
    return described_model(Path(name))


def described_model(folder: Path) -> PreTrainedModel:
    """The same of a folder whose weights, and whatever names them, are not looked at."""
    _check_config(folder)
    return empty_model(str(folder), read_config(str(folder), local_only=True))


def hub_folder(name: str) -> Path:
    """Folder with configuration and safetensors of a hub id, downloaded if need be; ModelError where out of reach."""
    local_only = _check_hub(name)
    patterns = ["*.json", "*.safetensors", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=local_only))
    except (OSError, HfHubHTTPError) as error:
        _refuse(name, "cannot be downloaded", error, "check the id and whether it asks for a login")


def _check_folder(folder: Path) -> bool:
    """Whether only local files may be read (always); ModelError where the folder holds no model with safetensors."""
    _check_config(folder)
    _check_weights(folder)
    return True


def _check_weights(folder: Path) -> None:
    found = weight_files(folder)
    if found.refusal:
        raise ModelError(f"{folder}: {found.refusal}")
    missing = [path.name for path in found.files if not path.is_file()]
    if missing:
        raise ModelError(
            f"{folder}: {len(missing)} of {len(found.files)} files that the index names are missing "
            f"({listed(missing)}); copy or download the folder again"
        )


def _check_config(folder: Path) -> None:
    if not folder.is_dir():
        raise ModelError(
            f"{folder}: expected a folder with config.json and *.safetensors, found a file; give its folder"
        )
    if not (folder / "config.json").is_file():
        is_adapter = (folder / "adapter_config.json").is_file()
        hint = "it holds a PEFT adapter: merge it into its base model and save that" if is_adapter else "check the path"
        raise ModelError(
            f"{folder}: no config.json, so this is no folder that save_pretrained wrote for a model; {hint}"
        )


def _check_hub(name: str) -> bool:
    """Whether only cached files may be read, as the hub is out of reach; ModelError where that leaves nothing."""
    if not HUB_ID.fullmatch(name):
        known = f"{EMBEDDED!r}, a saved model's folder, or a hub id such as owner/name"
        raise ModelError(f"{name or repr(name)}: no such folder; give {known}")
    if hub_answers():
        return False
    if not isinstance(try_to_load_from_cache(name, "config.json"), str):
        raise ModelError(
            f"{name}: there is no such folder here, and as a hub id it is neither in the cache "
            f"({constants.HF_HUB_CACHE}) nor can it be downloaded: {constants.ENDPOINT} does not answer. Check path "
            f"and network, copy the model here and give its folder, or use {EMBEDDED!r}"
        )
    return True


def hub_answers() -> bool:
    """Whether the hub is within reach and wanted: one short question, as libraries retry for 23 seconds or more."""
    if constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=HUB_TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # an answer, if not a friendly one
    except OSError:
        return False
    return True


def _load_model(name: str, config: PreTrainedConfig, dtype: torch.dtype, local_only: bool) -> PreTrainedModel:
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            name,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=local_only,
            ignore_mismatched_sizes=True,  # reported below, where Transformers would name no tensor
            output_loading_info=True,
        )
    except SafetensorError as error:
        _refuse(name, "a *.safetensors file is damaged", error, "copy or download it again")
    except REJECTIONS as error:
        empty_model(name, config)  # says so where it is the configuration that cannot be built
        _refuse(name, "its weights cannot be loaded", error, "weights are read from *.safetensors only")
    model, info = loaded
    _check_complete(name, info)
    return model


def _check_complete(name: str, info: dict[str, Any]) -> None:
    # Transformers fills what is missing or of another shape with random numbers and goes on
    missing = sorted(info["missing_keys"])
    other_shape = sorted(str(entry[0]) for entry in info["mismatched_keys"])
    for tensors, what in (
        (missing, "are missing from the weights"),
        (other_shape, "have another shape in the weights"),
    ):
        if tensors:
            raise ModelError(
                f"{name}: {len(tensors)} tensors of the model {what} ({listed(tensors)}); the checkpoint is "
                "incomplete or belongs to another config.json; copy or download it again"
            )


def _load_processor(name: str, local_only: bool) -> Any:
    try:
        processor = AutoProcessor.from_pretrained(name, local_files_only=local_only, trust_remote_code=False)
    except REJECTIONS as error:
        way_out = "save one beside the model with processor.save_pretrained; some families need torchvision"
        _refuse(name, "its processor cannot be made", error, way_out)
    if not hasattr(processor, "image_processor"):
        raise ModelError(
            f"{name}: found only a {type(processor).__name__}, which cannot read images; save the model's "
            "whole processor beside it with processor.save_pretrained"
        )
    return processor


def _refuse(name: str, what: str, error: Exception, way_out: str) -> NoReturn:
    raise ModelError(f"{name}: {what}; {way_out}. {said_by_transformers(error)}") from error
