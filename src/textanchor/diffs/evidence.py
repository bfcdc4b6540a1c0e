"""All that findings are made of, and the words that they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from textanchor.diffs.checkpoint import Problem
from textanchor.diffs.matching import Matching
from textanchor.diffs.rows import PartRow, TensorRow

LORA_TOLERANCE = 0.1
"""How far from a whole number the ratio of the weights' update to the adapter's may be, to be taken for it."""
LARGEST_MISFIT = 0.3
"""Largest share of the weights' update that is none of the adapter's, for the ratio to say something of merging."""


@dataclass(frozen=True)
class LoraFit:
    """How the change of one weight compares with the update that an adapter asks for."""

    name: str
    fit: float
    """The change is `fit` times the adapter's update, by least squares."""
    misfit: float
    """Relative size of what is left."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """All that findings are made of."""

    rows: Sequence[TensorRow]
    parts: Sequence[PartRow]
    matching: Matching
    problems: tuple[Problem, ...] = ()
    pickles: tuple[str, ...] = ()
    lora: tuple[str, ...] = ()
    """LoRA factors inside the tuned checkpoint."""
    unexpected: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    """Tensors of the tuned adapter that PEFT loads into nothing."""
    num_adapter_tensors: int = 0
    """Tensors of the tuned adapter's file."""
    wrapped: tuple[str, ...] = ()
    lora_fits: tuple[LoraFit, ...] = ()
    unchecked_adapter: str = ""
    """Why the adapter beside the weights could not be read."""
    frozen: frozenset[str] = frozenset()
    """Parts that the user meant to stay as they were."""
    parts_not_found: str = ""
    """Why the projector, or every part, was not found."""
    is_head_untied: bool = False
    """Whether head and embedding, one tensor in the base, have other values than each other."""
    is_tied_by_config: bool = False
    """Whether the tuned model's configuration still calls them one."""

    def changed(self, part: str | None = None) -> list[TensorRow]:
        """Tensors that changed, of one part or of all."""
        return [row for row in self.rows if row.is_changed and part in (None, row.part)]

    def missing(self, part: str | None = None) -> list[str]:
        """Names of the tensors that are not in the tuned checkpoint, of one part or of all."""
        return [row.name for row in self.rows if row.status == "missing" and part in (None, row.part)]


def whole_ratio(evidence: Evidence) -> int | None:
    """How often the adapter's update is in the weights, where that is a whole number in all of them."""
    fits = evidence.lora_fits
    if not fits:
        return None
    middle = median(fit.fit for fit in fits)
    ratio = round(middle)
    if any(abs(fit.fit - ratio) > LORA_TOLERANCE * max(ratio, 1) for fit in fits):
        return None
    is_explained = ratio == 0 or median(fit.misfit for fit in fits) <= LARGEST_MISFIT
    return ratio if is_explained else None


def tensors_are(number: int) -> str:
    """ "1 tensor is" or "2 tensors are"."""
    return "1 tensor is" if number == 1 else f"{number} tensors are"


def and_more(number: int, what: str) -> str:
    """ ", and 2 whats", empty for none."""
    if number == 0:
        return ""
    return f", and 1 {what}" if number == 1 else f", and {number} {what}s"
