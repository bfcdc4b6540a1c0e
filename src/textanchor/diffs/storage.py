"""How the weights of a checkpoint are stored: plain, quantised in a way that is decoded here, or in another format.

Another format is refused by its name: a sound file of it is neither damaged nor another model.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from textanchor.diffs.checkpoint import Checkpoint, Problem
from textanchor.diffs.quantised import Decoded, QuantisedWeight, find_quantised
from textanchor.errors import ModelError
from textanchor.files import read_json

PACKED = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64)
"""Types in which a model stores no plain tensor."""
TORCHAO = re.compile(r"(\._\w+_|:_?)(qdata|int_data|tensor_impl|scale|zero_point|scale_and_zero|per_tensor_scale)$")
FORMATS = (
    (TORCHAO, "torchao"),
    (re.compile(r"\.g_idx$"), "GPTQ"),
    (re.compile(r"\.qweight$"), "GPTQ or AWQ"),
    (re.compile(r"\.weight_packed$"), "compressed-tensors"),
    (re.compile(r"\.(qbiases|scales|biases)$"), "MLX or Metal"),
    (re.compile(r"_blocks$"), "MXFP4"),
    (re.compile(r"\.W_q$"), "HQQ"),
    (re.compile(r"\.codebooks$"), "AQLM"),
    (re.compile(r"\._data$"), "quanto"),
)
"""Names of tensors that only that format has; the first that is found names it, where config.json does not."""
INPUT_SCALES = ("activation_scale", "input_scale", "input_scale_ub")
"""Names beside a quantised weight that say nothing of the weight."""


class Decoder:
    """Values of a checkpoint's quantised weights; those of the last one are kept."""

    def __init__(self, raw: Checkpoint, weights: Mapping[str, QuantisedWeight]) -> None:
        self.raw, self.weights = raw, weights
        self._last: tuple[str, Decoded] | None = None

    def __contains__(self, name: str) -> bool:
        return name in self.weights

    def __getitem__(self, name: str) -> Decoded:
        if self._last is None or self._last[0] != name:
            self._last = (name, self._decoded(self.weights[name]))
        return self._last[1]

    def _decoded(self, weight: QuantisedWeight) -> Decoded:
        parts = {part: self.raw.whole(stored_name) for part, stored_name in weight.parts.items()}
        try:
            return weight.decode(parts)
        except (ValueError, KeyError, IndexError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"{self.raw.label}: {weight.name} is quantised ({weight.kind}), and its tensors do not fit together "
                f"({type(error).__name__}: {reason}); quantise the model again, or give it as it was before"
            ) from error


def dequantised(raw: Checkpoint) -> Checkpoint:
    """The checkpoint with its quantised weights as plain ones in float32; itself where there are none.

    ModelError names the format where weights are stored in one that is not decoded here.
    """
    weights = find_quantised(raw)
    used = {name for weight in weights.values() for name in weight.parts.values()}
    if weights:
        used |= {name for name in raw.tensors if name.rpartition(".")[2] in INPUT_SCALES}
    plain = {name: stored for name, stored in raw.tensors.items() if name not in used}
    foreign = [name for name, stored in raw.tensors.items() if stored.dtype in PACKED and name in plain]
    foreign += [name for name in raw.tensors if TORCHAO.search(name)]
    if foreign and not raw.problems:  # of a file that is cut off, parts of a known format may be missing
        raise ModelError(
            f"{raw.label}: its weights are quantised by {_format_of(raw)} (see {foreign[0]}), from which nothing but "
            "that format's own code makes numbers again; give the model as it was before it was quantised"
        )
    if not weights:
        return raw
    of_codes = {weight.kind for weight in weights.values() if len(weight.parts) > 1}
    if of_codes and _lacks_settings(raw):
        what = (
            f"has no quantization_config, so Transformers takes the codes of {', '.join(sorted(of_codes))} for weights"
        )
        raw = replace(raw, problems=(*raw.problems, Problem("config.json", what)))
    decoded = {
        name: replace(raw.tensors[name], shape=weight.shape, dtype=torch.float32, quantised=weight.kind)
        for name, weight in weights.items()
    }
    return replace(raw, tensors=plain | decoded, decoder=Decoder(raw, weights))


def _lacks_settings(raw: Checkpoint) -> bool:
    """Whether config.json does not say that the weights are quantised."""
    return raw.folder is not None and not _config(raw).get("quantization_config")


def _config(raw: Checkpoint) -> Mapping[str, Any]:
    return {} if raw.folder is None else read_json(raw.folder / "config.json")


def _format_of(raw: Checkpoint) -> str:
    """The name of a format that is not decoded here, as config.json has it, else by the names of its tensors."""
    config = _config(raw)
    settings = config.get("quantization_config")
    method = settings.get("quant_method") if isinstance(settings, Mapping) else None
    if method is not None:
        return str(method)
    if isinstance(config.get("quantization"), Mapping):
        return "MLX"
    names = (label for pattern, label in FORMATS if any(pattern.search(name) for name in raw.tensors))
    return next(names, "an unknown format")
