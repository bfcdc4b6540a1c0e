"""The folder a run ends in: plain Transformers weights and processor, checked by loading them again, and the run's
records.

Nothing of ours is needed to load it, save that a model with our EfficientNet tower (the embedded default) needs its
module `textanchor.vlm.efficientnet_tower` imported first, because Transformers does not know that architecture.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from textanchor.errors import ModelError
from textanchor.outputs import intended, writing
from textanchor.training.trainer import label_logits
from textanchor.vlm.logits import takes_logits_to_keep

RELOAD_TOLERANCE = 1e-5
"""Largest accepted difference of a logit between the model in memory and the one loaded from the folder, in float32."""
MERGE_TOLERANCE = 1e-4
"""Largest accepted difference of a logit by merging LoRA into the weights, as a share of the largest logit."""


@dataclass(frozen=True)
class ReloadCheck:
    """What loading the written folder again showed; all entries go into audit.json."""

    reload_max_difference: float
    merge_max_difference: float
    trained_not_saved: tuple[str, ...]
    other_tensors_changed: tuple[str, ...]

    def require(self, folder: Path, largest_logit: float) -> None:
        """Raise ModelError where the folder does not hold the model that was trained."""
        folder = intended(folder)
        lost = self.trained_not_saved + self.other_tensors_changed
        if lost:
            raise ModelError(
                f"{folder}: {len(lost)} tensors come back from the saved model with other values "
                f"({', '.join(lost[:5])}), so it is not the model that was trained and nothing was written; "
                "save_pretrained of this model class leaves them out: keep those parts frozen, and report the model "
                "class"
            )
        if not self.reload_max_difference <= RELOAD_TOLERANCE:
            raise ModelError(
                f"{folder}: the saved model's logits differ by {self.reload_max_difference:.1e} from the trained "
                f"model's (at most {RELOAD_TOLERANCE:.0e} is accepted), so nothing was written; something besides the "
                "saved tensors decides them: compare config.json with the model's configuration"
            )
        if not self.merge_max_difference <= MERGE_TOLERANCE * largest_logit:
            raise ModelError(
                f"{folder}: merging LoRA into the weights changed logits by {self.merge_max_difference:.1e}; the "
                "update is too large for float32 beside the weights: lower the learning rate"
            )


def num_bytes(model: nn.Module) -> int:
    """What the model takes on disk."""
    return sum(parameter.nbytes for parameter in model.parameters())


@torch.no_grad()
def logits_of(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """(labels, vocabulary) logits that predict the labels of the batch, in eval mode."""
    model.eval()
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    labels_BL = inputs.pop("labels")
    return label_logits(model, inputs, labels_BL, only=takes_logits_to_keep(model)).float().cpu()


def merged(model: nn.Module) -> Any:
    """The plain model with LoRA merged into its weights, no PEFT class left; changes `model` itself."""
    return model.merge_and_unload() if hasattr(model, "peft_config") else model  # pyright: ignore[reportCallIssue]


def save_checked(
    model: Any,
    processor: Any,
    folder: Path,
    *,
    trained: Iterable[str],
    batch: Mapping[str, Tensor],
    logits_before_merge: Tensor,
) -> ReloadCheck:
    """Write the plain `model` and its processor into `folder`, load it with Transformers alone and compare.

    `trained` are base names of trained tensors, `logits_before_merge` those of `batch` from the model as it was
    trained. ModelError where a tensor or the logits come back different.
    """
    with writing(folder, num_bytes=num_bytes(model)):
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    reloaded = type(model).from_pretrained(folder, dtype=torch.float32, local_files_only=True).to(model.device)
    changed = changed_tensors(model, reloaded)
    trained = frozenset(trained)
    logits = logits_of(model, batch)
    check = ReloadCheck(
        reload_max_difference=largest(logits_of(reloaded, batch) - logits),
        merge_max_difference=largest(logits - logits_before_merge),
        trained_not_saved=tuple(name for name in changed if name in trained),
        other_tensors_changed=tuple(name for name in changed if name not in trained),
    )
    check.require(folder, largest(logits))
    return check


def changed_tensors(model: nn.Module, reloaded: nn.Module) -> list[str]:
    """Names of the tensors of `model` that `reloaded` does not have, bit for bit."""
    other = reloaded.state_dict()
    return [name for name, t in model.state_dict().items() if name not in other or not torch.equal(other[name], t)]


def largest(difference: Tensor) -> float:
    """Size of the largest entry."""
    return float(difference.abs().max())
