"""VLMParts as a table for people."""

import re
from typing import TYPE_CHECKING

from torch import nn

from textanchor.tables import PART_TITLES, Table
from textanchor.vlm.names import is_within, unwrapped

if TYPE_CHECKING:
    from textanchor.vlm.parts import VLMParts

HEADER = ("part", "path", "parameters", "tensors", "found by")
MAX_OTHER = 2


def parts_table(parts: "VLMParts") -> str:
    """One row per path: part, base name, parameters (in millions from 1000 on), tensors, how it was found."""
    rows = [
        _row("vision_tower", parts.vision_tower, parts.parameters_of("vision_tower"), parts.found_by["vision_tower"]),
        *_projector_rows(parts),
        _row(
            "language_model",
            parts.language_model,
            parts.parameters_of("language_model"),
            parts.found_by["language_model"],
        ),
    ]
    rows += [
        (f"  {part}", path, "", "", parts.found_by[key])
        for part, path, key in (
            (PART_TITLES["embedding"], parts.input_embedding, "input_embedding"),
            (PART_TITLES["head"] + (" (tied)" if _is_tied(parts) else ""), parts.output_head, "output_head"),
        )
        if path is not None
    ]
    if experts := parts.experts():
        where = ", ".join(dict.fromkeys(re.sub(r"\d+", "*", name.rpartition(".")[0]) for name in experts))
        why = "one tensor for all of a layer: out of reach of LoRA and rules"
        rows.append(("  experts", *_row(None, where, experts, why)[1:]))
    if parts.other_tensors:
        rows.append(_row("other", _shortened(parts.other_tensors), parts.parameters_of("other"), "what no part holds"))
    wrapped = unwrapped(parts.model) is not parts.model
    title = type(unwrapped(parts.model)).__name__ + (" (wrapped by PEFT)" if wrapped else "")
    return f"{title}\n{Table(HEADER, rows).aligned()}"


def _is_tied(parts: "VLMParts") -> bool:
    if parts.output_head is None:
        return False
    return parts.module(parts.output_head).weight is parts.module(parts.input_embedding).weight


def _projector_rows(parts: "VLMParts") -> list[tuple[str, ...]]:
    tensors, how = parts.parameters_of("projector"), parts.found_by["projector"]
    if is_within(parts.projector[0], parts.vision_tower):
        how += " (inside the tower's module)"
    return [
        _row(
            "projector" if i == 0 else None,
            path,
            {name: tensor for name, tensor in tensors.items() if is_within(name, path)},
            how if i == 0 else "",
        )
        for i, path in enumerate(parts.projector)
    ]


def _row(part: str | None, path: str, tensors: dict[str, nn.Parameter], how: str) -> tuple[str, ...]:
    count = sum(tensor.numel() for tensor in tensors.values())
    title = "" if part is None else PART_TITLES[part]
    return title, path, f"{count / 1e6:.3f} M" if count >= 1000 else str(count), str(len(tensors)), how


def _shortened(names: tuple[str, ...]) -> str:
    tops = list(dict.fromkeys(".".join(name.split(".")[:2]) for name in names))
    return ", ".join(tops[:MAX_OTHER]) + (", ..." if len(tops) > MAX_OTHER else "")
