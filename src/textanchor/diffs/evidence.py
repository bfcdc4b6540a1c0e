"""All that findings are made of, and the words that they share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch

from textanchor.diffs.checkpoint import Problem
from textanchor.diffs.matching import Matching
from textanchor.diffs.merges import MERGES, MergeFit
from textanchor.diffs.rows import PartRow, TensorRow
from textanchor.tables import PART_TITLES

MERGE_TOLERANCE = 0.1
"""How far from a whole number the ratio of the weights' update to the adapter's may be, to be taken for it."""
LARGEST_MISFIT = 0.3
"""Largest share of the weights' update that is none of the adapter's, for the ratio to say something of merging."""


@dataclass(frozen=True)
class Stray:
    """A file with weights that is not loaded with the rest of its folder."""

    name: str
    is_pickled: bool
    parts: Mapping[str, int] | None
    """Part -> number of its tensors in the file; None where that cannot be told without running a pickle."""

    def may_hold(self, part: str) -> bool:
        """Whether tensors of that part may be in the file."""
        return not self.parts or part in self.parts

    @property
    def where(self) -> str:
        """The file as the end of a sentence that says where something may be."""
        return f"{self.name}, which is {'pickled, was not read' if self.is_pickled else 'not loaded'}"

    def __str__(self) -> str:
        counts = self.parts or {}
        what = [f"{number} of the {PART_TITLES[part]}" for part, number in counts.items()]
        held = f"tensors: {', '.join(what)}" if what else "no tensors that can be listed"
        return f"{self.name} ({held}{'; pickled' if self.is_pickled else ''})"


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence:
    """All that findings are made of."""

    rows: Sequence[TensorRow]
    parts: Sequence[PartRow]
    matching: Matching
    problems: tuple[Problem, ...] = ()
    loaded: str = ""
    """Who loads the tuned files, and which: "from_pretrained reads model.safetensors"."""
    strays: tuple["Stray", ...] = ()
    """Files with weights that lie beside them and are not loaded."""
    refusal: str = ""
    """Why Transformers cannot load the tuned folder at all, in a clause about it."""
    lora: tuple[str, ...] = ()
    """LoRA factors inside the tuned checkpoint."""
    unexpected: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()
    """Tensors of the tuned adapter that PEFT loads into nothing."""
    num_adapter_tensors: int = 0
    """Tensors of the tuned adapter's file."""
    wrapped: tuple[str, ...] = ()
    merges: Mapping[str, MergeFit] = field(default_factory=dict)
    """Weight -> how its change compares with the update of the adapter that should be merged into it."""
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

    def may_be_in(self, part: str) -> str:
        """Where tensors of a part may be that are not loaded, as the end of a sentence; empty for nowhere."""
        return next((stray.where for stray in self.strays if stray.may_hold(part)), "")

    def missing(self, part: str | None = None) -> list[str]:
        """Names of the tensors that loading would fill with random numbers, of one part or of all."""
        gone = frozenset(self.matching.without_place)
        rows = [row for row in self.rows if row.status == "missing" and row.name not in gone]
        return [row.name for row in rows if part in (None, row.part)]


def whole_ratio(evidence: Evidence) -> int | None:
    """How often the adapter's update is in the weights, where that is a whole number in all of them."""
    merges = evidence.merges.values()
    if not merges:
        return None
    middle = median(merge.fit for merge in merges)
    possible = frozenset(MERGES).intersection(*(merge.times for merge in merges))
    if possible:  # up to rounding, which may hide so much that several numbers are
        return min(possible, key=lambda times: abs(times - middle))
    ratio = round(middle)
    if any(abs(merge.fit - ratio) > MERGE_TOLERANCE * max(ratio, 1) for merge in merges):
        return None
    is_explained = ratio == 0 or median(merge.misfit for merge in merges) <= LARGEST_MISFIT
    return ratio if is_explained else None


def swallowed_share(evidence: Evidence) -> float:
    """Share of the adapter's update, by energy, that lies in entries which rounding left as they were."""
    total = sum(merge.energy for merge in evidence.merges.values())
    return sum(merge.swallowed for merge in evidence.merges.values()) / total if total else 0.0


def merged_dtype(evidence: Evidence) -> torch.dtype:
    """Type in which the adapter was merged, as the weights that it was merged into tell."""
    return next(iter(evidence.merges.values())).dtype


def dtype_name(dtype: torch.dtype) -> str:
    """Its name without the library's."""
    return str(dtype).removeprefix("torch.")


def tensors_are(number: int) -> str:
    """ "1 tensor is" or "2 tensors are"."""
    return "1 tensor is" if number == 1 else f"{number} tensors are"


def entries_that_are(number: int) -> str:
    """ "1 entry that is" or "2 entries that are"."""
    return "1 entry that is" if number == 1 else f"{number:,} entries that are"


def and_more(number: int, what: str) -> str:
    """ ", and 2 whats", empty for none."""
    if number == 0:
        return ""
    return f", and 1 {what}" if number == 1 else f", and {number} {what}s"
