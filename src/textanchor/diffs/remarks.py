"""Findings on what is there: what is not as most people want it, and what changed."""

from collections.abc import Sequence

from textanchor.diffs.evidence import (
    Evidence,
    and_more,
    dtype_name,
    merged_dtype,
    swallowed_share,
    tensors_are,
    whole_ratio,
)
from textanchor.diffs.merges import HALF_TYPES
from textanchor.diffs.quantised import FLOAT8
from textanchor.tables import PART_TITLES

NORM_GROWTH = 1.5
"""Times its norm in the base, from which a weight is said to have grown (or, inverted, shrunk)."""
QUANTISED_KINDS = ("nf4", "fp4", "int8", *map(dtype_name, FLOAT8))
MAX_FILES = 4
SWALLOWED_WARNING = 0.1
"""Share of an adapter's update, from which it is a warning that rounding swallowed it."""


def tower_hit_by_lora(evidence: Evidence) -> str | None:
    """Linears of the vision tower have low-rank updates, as those of the language model."""
    hit = [row for row in evidence.changed("vision_tower") if row.is_low_rank]
    if not hit or len(hit) < len(evidence.changed("vision_tower")):
        return None
    if not any(row.is_low_rank for row in evidence.changed("language_model")):
        return None
    rank = max(row.rank or 0 for row in hit)
    return (
        f"LoRA also hit the vision tower: {len(hit)} of its weights changed, by updates of rank {rank}; target names "
        "such as q_proj are found there too"
    )


def frozen_changed(evidence: Evidence) -> str | None:
    """A part changed that was meant to stay."""
    parts = [PART_TITLES[part] for part in PART_TITLES if part in evidence.frozen and evidence.changed(part)]
    return f"the {' and the '.join(parts)} changed, though meant to be frozen" if parts else None


def projector_not_found(evidence: Evidence) -> str | None:
    """Nobody knows which tensors are the projector, so nothing is said of it."""
    reason = evidence.parts_not_found
    return f"whether the projector was saved is not known, as it was not found: {reason}" if reason else None


def lora_merged_in_part(evidence: Evidence) -> str | None:
    """The weights moved by neither all nor nothing of the adapter's update."""
    if not evidence.merges or whole_ratio(evidence) is not None:
        return None
    fits = sorted(merge.fit for merge in evidence.merges.values())
    return (
        f"the weights moved by {fits[0]:.2f} to {fits[-1]:.2f} times the adapter's update: it was merged in part, or "
        "another one was"
    )


def update_swallowed(evidence: Evidence) -> str | None:
    """The adapter was merged, and much of its update was too small for the weights' type."""
    share = swallowed_share(evidence)
    if whole_ratio(evidence) != 1 or share < SWALLOWED_WARNING:
        return None
    return (
        f"the adapter was merged, as far as {dtype_name(merged_dtype(evidence))} can hold it: rounding swallowed "
        f"{_percent(share)} of its update; keep the adapter apart, or merge into float32"
    )


def adapter_unread(evidence: Evidence) -> str | None:
    """An adapter lies beside the weights that cannot be read."""
    reason = evidence.unchecked_adapter
    return f"the adapter beside the weights was not compared with them: {reason}" if reason else None


def head_untied_by_config(evidence: Evidence) -> str | None:
    """Head and embedding have come apart, and the configuration says so."""
    if not evidence.is_head_untied or evidence.is_tied_by_config:
        return None
    return "the output head, tied to the input embedding in the base, has values of its own"


def head_untied_by_adapter(evidence: Evidence) -> str | None:
    """An adapter changes one of two tensors that the base ties, or each in its own way."""
    if not (evidence.is_head_untied and evidence.num_adapter_tensors):
        return None
    return (
        "the adapter takes the output head and the input embedding apart, which the base ties: PEFT applies it so, but "
        "merging it changes both, or leaves two that config.json calls one; keep it apart, or untie the base first"
    )


def other_layout(evidence: Evidence) -> str | None:
    """Tensors are stored fused on one side and apart on the other, which Transformers converts as it loads."""
    names = evidence.matching.unmatched
    if not names:
        return None
    return f"{tensors_are(len(names))} stored in another layout and not compared ({names[0]})"


def vocabulary_resized(evidence: Evidence) -> str | None:
    """The embedding has another number of rows."""
    rows = [row for row in evidence.rows if row.status == "shape" and row.part in ("embedding", "head")]
    rows = [row for row in rows if not row.is_empty]
    return f"the vocabulary was resized, so {rows[0].name} was not compared" if rows else None


def unexpected_tensors(evidence: Evidence) -> str | None:
    """Names that Transformers knows no tensor for."""
    known = (*evidence.matching.misnamed.values(), *evidence.matching.not_built)
    names = [name for name in evidence.unexpected if name not in known]
    if not names:
        return None
    return f"{tensors_are(len(names))} unknown to Transformers, which would ignore them ({names[0]})"


def unbuilt_tensors_dropped(evidence: Evidence) -> str | None:
    """What Transformers does not build it does not save either, and other engines may use it."""
    names = evidence.matching.dropped
    if not names:
        return None
    return (
        f"{tensors_are(len(names))} in the base and not in the tuned checkpoint ({names[0]}) for which Transformers "
        "builds no module, so it neither loads nor saves them; engines that use them (multi-token prediction heads, "
        "for instance) need the base's"
    )


def unbuilt_tensors(evidence: Evidence) -> str | None:
    """What Transformers does not build is not compared."""
    names = evidence.matching.not_built
    if not names:
        return None
    return f"{tensors_are(len(names))} in both and not compared, as Transformers builds no module for them ({names[0]})"


def files_passed_over(evidence: Evidence) -> str | None:
    """Weights lie beside those that are loaded."""
    if not evidence.strays:
        return None
    some = ", ".join(map(str, evidence.strays[:MAX_FILES]))
    more = and_more(len(evidence.strays) - MAX_FILES, "other file") if len(evidence.strays) > MAX_FILES else ""
    return f"{evidence.loaded} and passes over {some}{more}"


def norm_growth(evidence: Evidence) -> str | None:
    """Weights grew or shrank much."""
    moved = [
        (row, row.norm_ratio)
        for row in evidence.changed()
        if row.norm_ratio and len(row.shape) > 1 and max(row.norm_ratio, 1 / row.norm_ratio) > NORM_GROWTH
    ]
    if not moved:
        return None
    row, ratio = max(moved, key=lambda pair: max(pair[1], 1 / pair[1]))
    more = and_more(len(moved) - 1, "other weight")
    return f"norms moved far from the base's: {row.name} by a factor of {ratio:.2f}{more}"


def summary(evidence: Evidence) -> str:
    """What changed, and what was matched on the way."""
    said = [
        f"the {row.title}" + (f" by {_percent(row.relative)}" if row.relative else "")
        for row in evidence.parts
        if row.num_changed
    ]
    clauses = [f"changed {'is' if len(said) == 1 else 'are'} {_listed(said)}" if said else "no tensor changed"]
    if evidence.matching.renamed:
        clauses.append(
            f"{evidence.matching.renamed} tensors bear names of another Transformers version and were matched"
        )
    if whole_ratio(evidence) == 1:
        held = f", as far as {dtype_name(merged_dtype(evidence))} can hold it"
        held += f" (rounding swallowed {_percent(swallowed_share(evidence))})"
        clauses.append(
            f"the adapter's update is in the weights, once{held if merged_dtype(evidence) in HALF_TYPES else ''}"
        )
    types = {(row.base_dtype or "", row.tuned_dtype or "") for row in evidence.rows if row.tuned_dtype}
    clauses += [f"{first} was saved as {second}" for first, second in sorted(types) if first != second]
    return "; ".join(clauses)


def quantised(evidence: Evidence) -> str | None:
    """Sizes of changes between a quantised and another weight hold the quantisation's own error."""
    rows = [row for row in evidence.changed() if row.base_dtype != row.tuned_dtype]
    kinds = {kind for row in rows for kind in (row.base_dtype, row.tuned_dtype) if kind in QUANTISED_KINDS}
    if not kinds:
        return None
    return f"the sizes of changes include what the rounding to {' and '.join(sorted(kinds))} makes"


def intruder_dimensions(evidence: Evidence) -> str | None:
    """Singular directions that the base does not have (arXiv 2410.21228)."""
    rows = [row for row in evidence.rows if row.intruders]
    if not rows:
        return None
    total = sum(row.intruders or 0 for row in rows)
    where = rows[0].name if len(rows) == 1 else f"{len(rows)} weights"
    return f"intruder dimensions, leading singular directions that the base does not have: {total} in {where}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _listed(texts: Sequence[str]) -> str:
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
