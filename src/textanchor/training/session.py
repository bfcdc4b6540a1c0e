"""What a method and the callbacks of a run may look at."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from textanchor.training.config import AdaptConfig
from textanchor.training.updates import StartWeights
from textanchor.vlm.parts import VLMParts


@dataclass(frozen=True)
class Session:
    """One run after its trained tensors are set up, before the optimizer exists."""

    config: AdaptConfig
    processor: Any
    parts: VLMParts
    model_hash: str
    """Hash of the model before anything was added to it, as anchors record it."""
    start: StartWeights
    """The trained tensors as they were before the run, also in a run that is resumed."""
    kept: Path
    """Folder in which a method may keep what it computed once, for a resumed run."""
    is_resumed: bool
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Of `model` before the run and of the `data`, as run.json holds them."""
    anchors: Path | None = None
    """Folder in which runs of equal models keep anchors and plans for one another; None where a run is alone."""

    @property
    def model(self) -> nn.Module:
        """The model that is trained, wrapped by PEFT where there is LoRA."""
        return self.parts.model
