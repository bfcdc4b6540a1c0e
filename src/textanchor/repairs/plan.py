"""What a repair takes back: shares of each part's change, and what lies in held directions."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from textanchor.data.reference_images import ReferenceImages
from textanchor.data.texts import read_texts
from textanchor.diffs.structure import GROUPS
from textanchor.errors import ConfigError
from textanchor.holds import Anchor, FilterConfig, HoldPlan, fit_anchor, plan_holds
from textanchor.vlm.hashing import hash_of_model
from textanchor.vlm.parts import VLMParts

DEFAULT_ALPHA = 0.5
"""Of the tuned weights, where no plan is given: what WiSE-FT recommends where none can be chosen."""


@dataclass(frozen=True, kw_only=True)
class RepairPlan:
    """What becomes of D = W_tuned - W0; an option without effect is a ConfigError.

    First WiSE-FT (arXiv 2109.01903): D is scaled by alpha, part by part. Then the rules of a hold plan are applied to
    what is left, once, as after an optimizer's step; tensors that the plan freezes go back to the base.
    """

    interpolate: dict[str, float] = field(default_factory=dict)
    """Part -> alpha in [0, 1], the share of its change that stays; 1 where it is left out. Parts are vision_tower,
    projector, language_model, embedding, head and other."""
    projector: FilterConfig | None = None
    """What is held of the projector."""
    language_model: FilterConfig | None = None
    """What is held of the language model."""
    texts: Path | None = None
    """Texts of the anchor: a .txt file with one on each line, or JSON rows with `text`; ours where it is left out."""
    num_texts: int | None = None
    """Number of texts to take, from the first; all where it is left out."""
    reference: ReferenceImages | None = None
    """Images of the anchor, where the projector is held by its inputs."""
    anchor: Path | None = None
    """A saved anchor of the base, in place of fitting one."""

    def __post_init__(self) -> None:
        for part, alpha in self.interpolate.items():
            if part not in GROUPS:
                raise ConfigError(f"interpolate: {part!r} is no part; the parts are {', '.join(GROUPS)}")
            if not 0 <= alpha <= 1:
                raise ConfigError(f"interpolate.{part} must lie between 0 and 1, found {alpha}")
        if not self.filters and not any(alpha < 1 for alpha in self.interpolate.values()):
            raise ConfigError("this plan takes nothing back; give interpolate, projector or language_model")
        for part, held in self.filters.items():
            _require_one_step(part, held)
        self._check_anchor()

    def _check_anchor(self) -> None:
        fits = self.filters and self.anchor is None
        for name in ("texts", "num_texts", "reference"):
            if getattr(self, name) is not None and not fits:
                raise ConfigError(f"{name} has no effect without a filter whose anchor is fitted here; remove it")
        if self.anchor is not None and not self.filters:
            raise ConfigError("anchor has no effect without a filter; remove it")
        if fits and self._takes_images != (self.reference is not None):
            what = "needs" if self._takes_images else "takes no"
            raise ConfigError(f"the projector's filter {what} reference images (inputs, coupling, pullback do)")

    @property
    def is_uniform(self) -> bool:
        """Whether every part is treated alike, so that no part needs to be found."""
        return not self.filters and len({self.interpolate.get(part, 1.0) for part in GROUPS}) == 1

    @property
    def filters(self) -> dict[str, FilterConfig]:
        """Held part -> its filter."""
        given = {"projector": self.projector, "language_model": self.language_model}
        return {name: held for name, held in given.items() if held is not None}

    @property
    def _takes_images(self) -> bool:
        held = self.projector
        return held is not None and (held.mode in ("inputs", "coupling") or held.inner == "pullback")

    def holds(self, parts: VLMParts, processor: Any) -> HoldPlan | None:
        """The hold plan on the base, whose changed tensors are those with gradients; None without filters."""
        return plan_holds(parts, self._anchor(parts, processor), self.filters) if self.filters else None

    def _anchor(self, parts: VLMParts, processor: Any) -> Anchor:
        if self.anchor is not None:
            anchor = Anchor.load(self.anchor)
            if anchor.provenance.get("model_hash") != hash_of_model(parts.model):
                raise ConfigError(f"{self.anchor}: fitted on another model than the base; fit one on that")
            return anchor
        held = self.language_model
        return fit_anchor(
            parts.model,
            processor,
            read_texts(self.texts, self.num_texts),
            None if self.reference is None else self.reference.for_anchor(),
            parts=parts,
            linears=None if held is not None and held.mode in ("inputs", "coupling") else [],
        )


def default_plan() -> RepairPlan:
    """Half of every part's change."""
    return RepairPlan(interpolate=dict.fromkeys(GROUPS, DEFAULT_ALPHA))


def _require_one_step(part: str, held: FilterConfig) -> None:
    """Raise ConfigError where a rule means something only while a model is trained."""
    if held.hold not in ("exact", "share"):
        raise ConfigError(f"{part}: hold={held.hold!r} acts while a model is trained; a repair takes exact or share")
    if held.gradients != "whole":
        raise ConfigError(f"{part}: gradients={held.gradients!r} has no effect, because nothing is trained; remove it")
    if held.target != "preserve":
        raise ConfigError(f"{part}: target={held.target!r} counts from other weights than the base's; leave it out")
