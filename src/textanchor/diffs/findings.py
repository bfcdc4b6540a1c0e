"""What the comparison means: a list of named findings, the gravest first; the verdict is the first one's sentence.

A finding is a function from the evidence to a sentence, or None. *lost*: the files do not hold the model that was
trained, or no library will load it as it was. *warning*: it is there, but something is not as most people want it.
*note*: nothing is wrong.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from textanchor.diffs import losses, remarks
from textanchor.diffs.evidence import Evidence

Severity = Literal["lost", "warning", "note"]

FINDINGS: dict[Severity, tuple[Callable[[Evidence], str | None], ...]] = {
    "lost": (
        losses.not_loadable,
        losses.incomplete,
        losses.not_finite,
        losses.adapter_not_applied,
        losses.lora_inside,
        losses.lora_not_merged,
        losses.lora_merged_again,
        losses.wrapped_names,
        losses.projector_misnamed,
        losses.projector_missing,
        losses.missing_tensors,
        losses.empty_tensors,
        losses.other_model,
        losses.other_shapes,
        losses.nothing_changed,
        losses.head_untied,
        losses.projector_unchanged,
    ),
    "warning": (
        remarks.tower_hit_by_lora,
        remarks.frozen_changed,
        remarks.projector_not_found,
        remarks.lora_merged_in_part,
        remarks.update_swallowed,
        remarks.adapter_unread,
        remarks.head_untied_by_config,
        remarks.head_untied_by_adapter,
        remarks.other_layout,
        remarks.vocabulary_resized,
        remarks.unexpected_tensors,
        remarks.unbuilt_tensors_dropped,
        remarks.files_passed_over,
        remarks.norm_growth,
    ),
    "note": (remarks.summary, remarks.quantised, remarks.intruder_dimensions, remarks.unbuilt_tensors),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found out."""

    kind: str
    severity: Severity
    sentence: str


def find(evidence: Evidence) -> tuple[Finding, ...]:
    """All findings, the gravest first; there is always at least one."""
    found = []
    for severity, functions in FINDINGS.items():
        for function in functions:
            sentence = function(evidence)
            if sentence is not None:
                found.append(Finding(function.__name__, severity, sentence))
    if found[0].severity == "note":
        found[0] = replace(found[0], sentence=f"nothing was lost: {found[0].sentence}")
    return tuple(found)
