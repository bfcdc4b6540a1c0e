"""How lmms-eval finds us: the entry point of its group `lmms_eval.models` (pyproject.toml)."""

from typing import Any

MODEL_ID = "textanchor"


def manifest() -> Any:
    """The `ModelManifest` of our model; lmms-eval calls this while it loads, so nothing else is imported yet."""
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

    return ModelManifest(model_id=MODEL_ID, simple_class_path="textanchor.evaluation.lmms.TextanchorModel")
