"""Fine-tune a vision-language model on your task and keep what it already had.

Names below are loaded at their first use, so that `import textanchor` is light: no torch, no Transformers.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from textanchor.diffs import DiffReport, diff
    from textanchor.errors import ConfigError, DataError, FetchError, HoldError, ModelError, TextanchorError
    from textanchor.holds import Anchor, FilterConfig, HoldPlan, attach, fit_anchor, plan_holds
    from textanchor.records import RunRecord, Score
    from textanchor.repairs import RepairPlan, RepairReport, repair, repair_tensors
    from textanchor.training.adapt import adapt
    from textanchor.training.config import AdaptConfig
    from textanchor.training.hf import AnchorCallback
    from textanchor.vlm.loading import load_vlm
    from textanchor.vlm.parts import VLMParts, find_parts

_HOME = {
    "Anchor": "textanchor.holds",
    "AdaptConfig": "textanchor.training.config",
    "AnchorCallback": "textanchor.training.hf",
    "ConfigError": "textanchor.errors",
    "DataError": "textanchor.errors",
    "DiffReport": "textanchor.diffs",
    "FetchError": "textanchor.errors",
    "FilterConfig": "textanchor.holds",
    "HoldError": "textanchor.errors",
    "HoldPlan": "textanchor.holds",
    "ModelError": "textanchor.errors",
    "RepairPlan": "textanchor.repairs",
    "RepairReport": "textanchor.repairs",
    "RunRecord": "textanchor.records",
    "Score": "textanchor.records",
    "TextanchorError": "textanchor.errors",
    "VLMParts": "textanchor.vlm.parts",
    "adapt": "textanchor.training.adapt",
    "attach": "textanchor.holds",
    "diff": "textanchor.diffs",
    "find_parts": "textanchor.vlm.parts",
    "fit_anchor": "textanchor.holds",
    "load_vlm": "textanchor.vlm.loading",
    "plan_holds": "textanchor.holds",
    "repair": "textanchor.repairs",
    "repair_tensors": "textanchor.repairs",
}
"""Public name -> module that defines it; the contract tests compare this with the imports above."""

__all__ = [
    "AdaptConfig",
    "Anchor",
    "AnchorCallback",
    "ConfigError",
    "DataError",
    "DiffReport",
    "FetchError",
    "FilterConfig",
    "HoldError",
    "HoldPlan",
    "ModelError",
    "RepairPlan",
    "RepairReport",
    "RunRecord",
    "Score",
    "TextanchorError",
    "VLMParts",
    "__version__",
    "adapt",
    "attach",
    "diff",
    "find_parts",
    "fit_anchor",
    "load_vlm",
    "plan_holds",
    "repair",
    "repair_tensors",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'textanchor' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value  # found without this function from now on
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
