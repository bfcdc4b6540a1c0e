"""Findings that something was lost: the files do not hold, or do not load as, the model that was trained."""

from statistics import median

from textanchor.diffs.evidence import (
    Evidence,
    and_more,
    dtype_name,
    entries_that_are,
    merged_dtype,
    tensors_are,
    whole_ratio,
)
from textanchor.diffs.loading import ZERO3


def not_loadable(evidence: Evidence) -> str | None:
    """`from_pretrained` ends with an error, whatever lies in the folder."""
    return f"from_pretrained cannot load the folder: {evidence.refusal}" if evidence.refusal else None


def incomplete(evidence: Evidence) -> str | None:
    """Files of the tuned checkpoint are cut off or missing."""
    if not evidence.problems:
        return None
    more = and_more(len(evidence.problems) - 1, "other problem")
    return f"the tuned checkpoint is incomplete: {evidence.problems[0]}{more}"


def not_finite(evidence: Evidence) -> str | None:
    """Tuned weights are NaN or infinite."""
    bad = [row for row in evidence.rows if row.num_bad]
    if not bad:
        return None
    entries = entries_that_are(bad[0].num_bad)
    more = and_more(len(bad) - 1, "other tensor")
    return f"the tuned weights are not finite: {bad[0].name} has {entries} NaN or infinite{more}"


def adapter_not_applied(evidence: Evidence) -> str | None:
    """PEFT knows no place in the base for tensors of the adapter, and leaves them out without an error."""
    names, total = evidence.unmatched, evidence.num_adapter_tensors
    if not names:
        return None
    applied = total - len(names)
    return (
        f"PEFT applies {applied or 'none'} of the adapter's {total} tensors: it finds no place for {names[0]}, and "
        "loads the rest without an error; the adapter is of another base, or of another version's names"
    )


def lora_inside(evidence: Evidence) -> str | None:
    """LoRA factors stand beside the weights that they should be merged into."""
    if not evidence.lora:
        return None
    return (
        f"LoRA is not merged: {len(evidence.lora)} LoRA tensors lie in the tuned checkpoint beside the weights, and "
        "Transformers ignores them"
    )


def lora_not_merged(evidence: Evidence) -> str | None:
    """The adapter's update is not in the weights."""
    if whole_ratio(evidence) != 0:
        return None
    merges = evidence.merges.values()
    is_too_small = all(1 in merge.times for merge in merges)
    swallowed = f", or rounding to {dtype_name(merged_dtype(evidence))} swallowed all of it" if is_too_small else ""
    return f"LoRA is not merged: the adapter's update is in none of its {len(merges)} weights{swallowed}"


def lora_merged_again(evidence: Evidence) -> str | None:
    """The adapter's update is in the weights more than once."""
    ratio = whole_ratio(evidence)
    if ratio is None or ratio < 2:
        return None
    often = "twice" if ratio == 2 else f"{ratio} times"
    exact = median(merge.fit for merge in evidence.merges.values())
    return f"LoRA was merged {often}: the weights moved by {exact:.2f} times the adapter's update"


def wrapped_names(evidence: Evidence) -> str | None:
    """The file was written from a wrapped model, so that Transformers knows none of its names."""
    if not evidence.wrapped:
        return None
    return (
        f"{len(evidence.wrapped)} tensors bear a wrapper's names ({evidence.wrapped[0]}): Transformers would not load "
        "them and fill the model with random numbers"
    )


def projector_misnamed(evidence: Evidence) -> str | None:
    """The projector is in the file under names of another code base."""
    names = [other for name, other in evidence.matching.misnamed.items()]
    if not names:
        return None
    return (
        f"the projector is saved under names that Transformers does not know ({names[0]}): loading would fill it with "
        "random numbers"
    )


def projector_missing(evidence: Evidence) -> str | None:
    """The projector is not in the file."""
    missing = evidence.missing("projector")
    if not missing or wrapped_names(evidence) or projector_misnamed(evidence) or evidence.problems:
        return None
    where = evidence.may_be_in("projector")
    number = len([row for row in evidence.rows if row.part == "projector"])
    return (
        f"the projector was not saved: {len(missing)} of its {number} tensors are missing, and loading would fill them "
        f"with random numbers{f'; it may be in {where}' if where else ''}"
    )


def missing_tensors(evidence: Evidence) -> str | None:
    """Tensors of other parts are not in the file."""
    missing = [name for name in evidence.missing() if name not in evidence.missing("projector")]
    if not missing or wrapped_names(evidence) or evidence.problems:
        return None
    return f"{tensors_are(len(missing))} missing ({missing[0]}): loading would fill them with random numbers"


def empty_tensors(evidence: Evidence) -> str | None:
    """Weights hold nothing, which Transformers was not asked about."""
    rows = [row for row in evidence.rows if row.status == "shape" and row.is_empty]
    if not rows or evidence.refusal:
        return None
    return f"{tensors_are(len(rows))} empty, of shape {rows[0].shape} ({rows[0].name}), {ZERO3}"


def other_model(evidence: Evidence) -> str | None:
    """The tuned folder's configuration is of a model with fewer tensors."""
    names = evidence.matching.without_place
    if not names:
        return None
    return (
        f"{tensors_are(len(names))} missing for which the tuned folder's config.json has no place ({names[0]}): this "
        "is another model"
    )


def other_shapes(evidence: Evidence) -> str | None:
    """Tensors have another shape, other than by a resized vocabulary."""
    rows = [row for row in evidence.rows if row.status == "shape" and row.part not in ("embedding", "head")]
    rows = [row for row in rows if not row.is_empty]
    if not rows or evidence.refusal:
        return None
    return f"{tensors_are(len(rows))} of another shape than in the base ({rows[0].name}): this is another model"


def head_untied(evidence: Evidence) -> str | None:
    """Head and embedding were one and have come apart, which the configuration does not say."""
    if not (evidence.is_head_untied and evidence.is_tied_by_config) or evidence.num_adapter_tensors:
        return None
    return (
        "the output head is no longer tied to the input embedding: their values differ, and whatever ties them as "
        "config.json says drops one of the two"
    )


def nothing_changed(evidence: Evidence) -> str | None:
    """The tuned checkpoint is the base."""
    if evidence.changed() or evidence.problems or evidence.missing() or any(row.num_bad for row in evidence.rows):
        return None
    where = f"; it may be in {evidence.strays[0].where}" if evidence.strays else ""
    rounded = next((row for row in evidence.rows if row.status == "rounding"), None)
    if rounded is not None:
        types = f"from {rounded.base_dtype} to {rounded.tuned_dtype}"
        return f"nothing is changed beyond the rounding {types}: your tuning was not saved{where}"
    return f"nothing is changed: the tuned checkpoint holds the base's weights, your tuning was not saved{where}"


def projector_unchanged(evidence: Evidence) -> str | None:
    """Everything else was tuned, and the projector is the base's."""
    rows = [row for row in evidence.rows if row.part == "projector"]
    if not rows or not evidence.changed() or "projector" in evidence.frozen:
        return None
    if any(row.status not in ("equal", "rounding") for row in rows):
        return None
    if where := evidence.may_be_in("projector"):
        return f"the projector is unchanged: your tuning may be in {where}"
    return "the projector is unchanged: your tuning was not saved (if you froze it, say --frozen projector)"
