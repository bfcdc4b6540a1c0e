"""Anchor-Preserving Projection: what is trained is kept off the directions that the model's text lives in."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image
from rich.progress import Progress

from textanchor.bounds import require_range
from textanchor.config import to_dict
from textanchor.data.reference_images import ReferenceImages
from textanchor.data.texts import read_texts
from textanchor.errors import ConfigError, HoldError
from textanchor.files import sha256_of_json
from textanchor.holds import Anchor, FilterConfig, HoldPlan, Probe, fit_anchor, plan_holds, take_probe
from textanchor.holds.legal import held_text_linears, require_part
from textanchor.holds.sources import (
    IDENTITY,
    RANDOM_ENERGY,
    REFERENCE_SENSITIVITY,
    TEXT_SENSITIVITY,
    is_gathered,
    takes_images,
)
from textanchor.training.config import PartsConfig
from textanchor.training.hf import AnchorCallback
from textanchor.training.method import AbstractMethod, AnsweredByBase, Attachment, Needs
from textanchor.training.session import Session
from textanchor.training.trainable import trained_parameters
from textanchor.vlm.parts import VLMParts
from textanchor.vlm.passes import image_inputs, run_images

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from textanchor.data.items import Conversation
    from textanchor.training.adapters import AdapterTargets

DEFAULT_FILTERS = {
    "projector": FilterConfig(mode="inputs", kept_fraction=0.2),
    "language_model": FilterConfig(mode="inputs", kept_fraction=0.4),
}
"""What is held where neither part is named: the form that the evidence has left standing (docs/method.md)."""


@dataclass(frozen=True, kw_only=True)
class AnchorPreservingProjection(AbstractMethod):
    """After each optimizer step, Delta = W - W0 gives up (or is limited in) its protected part P_out Delta P_in.

    P_out and P_in are spectral filters U diag(g) U^T on the directions of an anchor: moments of the model's own states
    on text, and for the inputs of the projector on reference images. `FilterConfig` says which side, how many
    directions, with which gains, and how hard. Every tensor of a held part has a rule or is frozen: with modes outputs,
    manifold and coupling of the language model only o_proj and down_proj are trained, by LoRA or in full.

    Source: our definition after the abstract of "The Dominance of Text Space" (ACL 2026, 1699), whose formula is not
    public; mode inputs with hold exact on full weights is the null-space family (Adam-NSCL, arXiv 2103.07113).
    """

    projector: FilterConfig | None = None
    """What is held of the projector; it is free where this is left out, unless language_model is too."""
    language_model: FilterConfig | None = None
    """What is held of the language model; where both are left out, both are held by `DEFAULT_FILTERS`."""
    texts: Path | None = None
    """Texts of the anchor: a .txt file with one on each line, or JSON rows with `text`; ours where it is left out."""
    num_texts: int | None = None
    """Number of texts to take, from the first; all where it is left out."""
    reference: ReferenceImages | None = None
    """Images, needed where the projector is held by its inputs (also under coupling) or with pullback, and where a
    basis is visual or reference_sensitivity, or language_anchor asks for them; otherwise they only measure."""
    language_anchor: Literal["text", "text_and_images"] = "text"
    """What the language model's linears are held on: the texts, or beside them the reference images with a question
    each, as the model is to keep answering."""
    replay_reference: bool = False
    """Whether the reference images are trained on as well: each with its question and the model's own answer from
    before training, as under `replay`."""
    anchor: Path | None = None
    """A saved anchor to use, in place of fitting one."""

    def __post_init__(self) -> None:
        if self.projector is None and self.language_model is None:
            for part, held in DEFAULT_FILTERS.items():
                object.__setattr__(self, part, held)
        for part, held in self._filters().items():
            require_part(held, part)
        if self.anchor is not None and (self.texts or self.num_texts):
            raise ConfigError("texts and num_texts have no effect beside a saved anchor; remove them")
        if self.language_anchor != "text" and (self.anchor is not None or not self._language_inputs):
            raise ConfigError(
                "language_anchor: text_and_images is about the anchor that is fitted for language_model with mode "
                "inputs or coupling; it has no effect beside a saved anchor or without such a hold: remove it"
            )
        if self._takes_images and self.anchor is None and self.reference is None:
            raise ConfigError(
                "projector with mode inputs or coupling, or inner pullback, bases visual and reference_sensitivity and "
                "language_anchor: text_and_images need an anchor that was fitted on images: add reference (task, "
                "tasks, path or folder, and num_images), or anchor"
            )
        if self.replay_reference and self.reference is None:
            raise ConfigError("replay_reference has no effect without reference: add it, or remove replay_reference")
        if self.reference is not None and self.reference.folder is not None:
            self._check_question(self.reference.question)
        require_range("num_texts", self.num_texts, least=1)

    def _check_question(self, question: str | None) -> None:
        asks = self.replay_reference or (self.anchor is None and self._anchor_asks)
        if asks and question is None:
            raise ConfigError(
                f"basis {REFERENCE_SENSITIVITY}, language_anchor: text_and_images and replay_reference ask about each "
                "reference image: give reference.question, or a task, whose items have questions"
            )
        if question is not None and not asks:
            raise ConfigError(
                f"reference.question has no effect without basis {REFERENCE_SENSITIVITY}, language_anchor: "
                "text_and_images or replay_reference; remove it"
            )

    @property
    def _anchor_asks(self) -> bool:
        """Whether the anchor is one of images with a question each."""
        return self.language_anchor != "text" or REFERENCE_SENSITIVITY in self._bases()

    @property
    def _language_inputs(self) -> bool:
        """Whether linears of the language model are held by what enters them."""
        held = self.language_model
        return held is not None and held.basis != IDENTITY and held.mode in ("inputs", "coupling")

    @property
    def _takes_images(self) -> bool:
        held = self.projector
        by_inputs = held is not None and held.basis != IDENTITY and held.mode in ("inputs", "coupling")
        is_pulled = held is not None and held.inner == "pullback"
        by_language = self.language_anchor != "text"
        return by_inputs or is_pulled or by_language or any(takes_images(basis) for basis in self._bases())

    def _bases(self) -> list[str]:
        """What the anchor is asked to gather beside the text embedding and the inputs of linears."""
        bases = [str(held.basis) for held in self._filters().values()]
        compares_steps = any(h.basis == RANDOM_ENERGY and h.mode != "inputs" for h in self._filters().values())
        return [basis for basis in bases if is_gathered(basis)] + [TEXT_SENSITIVITY] * compares_steps

    @property
    def needs(self) -> Needs:
        """Text alone, unless the projector is held by what enters it, images (with questions) give the basis or are
        replayed; identity asks for nothing."""
        if self._anchor_asks or self.replay_reference:
            return "reference questions"
        if all(held.basis == IDENTITY for held in self._filters().values()):
            return "nothing"
        return "reference images" if self._takes_images else "text"

    def check_parts(self, parts: PartsConfig) -> None:
        """Raise ConfigError where a part is held that is not trained."""
        for name in self._filters():
            if name not in parts.trained():
                raise ConfigError(
                    f"method.{name} holds a part that parts.{name}.train: frozen does not train; remove it (app that "
                    "names no part holds both: name the one that trains)"
                )

    def make_adapter(self, targets: "AdapterTargets") -> "nn.Module":
        """PEFT's LoRA, in the language model only on the linears that its mode lets train."""
        if self.language_model is not None and "language_model" in targets.linears:
            held = held_text_linears(self.language_model, targets.linears["language_model"])
            targets = replace(targets, linears={**targets.linears, "language_model": held})
        return super().make_adapter(targets)

    def training_data(
        self, conversations: "Sequence[Conversation]", seed: int, answered: AnsweredByBase
    ) -> "Sequence[Conversation]":
        """The new conversations, and the replayed ones where they are asked for."""
        if not self.replay_reference or self.reference is None:
            return conversations
        return [*conversations, *answered(self.reference.questions())]

    def start(self, session: Session) -> Attachment:
        """Fit the anchor, plan, freeze what has no rule, and hold by a callback."""
        plan = self._plan(session)
        plan.freeze(session.model)
        probe = None if self.reference is None else _probe(session, self.reference.for_probe())
        callback = AnchorCallback(plan)
        penalty = None if plan.projector is None else callback.penalty
        return Attachment(callbacks=(callback,), penalty=penalty, plan=plan, probe=probe)

    def _filters(self) -> dict[str, FilterConfig]:
        given = {"projector": self.projector, "language_model": self.language_model}
        return {name: held for name, held in given.items() if held is not None}

    def _plan(self, session: Session) -> HoldPlan:
        """The plan, made once: a resumed run takes the one it began with, which holds what was held before."""
        saved = session.kept / "plan"
        if session.is_resumed:
            return HoldPlan.load(saved, session.model)
        plan = self._made(session) if session.anchors is None else self._shared(session, session.anchors)
        if session.config.training.save_steps is not None:
            plan.save(saved, overwrite=True)
        return plan

    def _made(self, session: Session) -> HoldPlan:
        return plan_holds(session.parts, self._anchor(session), self._filters())

    def _shared(self, session: Session, folder: Path) -> HoldPlan:
        """The plan of an earlier run of an equal base that trains and holds the same: decompositions take a while."""
        held = {name: to_dict(filters) for name, filters in self._filters().items()}
        asked = [self._asked(session), str(self.anchor), held, sorted(trained_parameters(session.model))]
        kept = folder / f"plan-{sha256_of_json(asked)}"
        if not kept.exists():
            self._made(session).save(kept)
        return HoldPlan.load(kept, session.model)

    def _anchor(self, session: Session) -> Anchor:
        if self.anchor is not None:
            anchor = Anchor.load(self.anchor)
            if anchor.provenance.get("model_hash") != session.model_hash:
                raise HoldError(
                    f"{self.anchor}: this anchor was fitted on another model than {session.config.model}; fit one on it"
                )
            return anchor
        if session.anchors is None:
            return self._fitted(session)
        kept = session.anchors / f"anchor-{sha256_of_json(self._asked(session))}"
        if not kept.exists():
            self._fitted(session).save(kept)
        return Anchor.load(kept)

    def _asked(self, session: Session) -> list[Any]:
        """What decides the anchor."""
        linears, texts = self._text_linears(session.parts), read_texts(self.texts, self.num_texts)
        images = [self._takes_images, self.language_anchor, to_dict(self.reference)]
        return [session.model_hash, texts, linears, images, self._bases()]

    def _fitted(self, session: Session) -> Anchor:
        linears, texts, bases = self._text_linears(session.parts), read_texts(self.texts, self.num_texts), self._bases()
        images = self.reference.for_anchor() if self._takes_images and self.reference is not None else None
        with Progress(transient=True) as progress:
            task = progress.add_task("anchor", total=None)
            return fit_anchor(
                session.model,
                session.processor,
                texts,
                images,
                parts=session.parts,
                linears=linears,
                bases=bases,
                questions=self._questions(),
                language_images=self.language_anchor != "text",
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )

    def _questions(self) -> list[str] | None:
        if not self._anchor_asks or self.reference is None:
            return None
        return [item.question for item in self.reference.questions()]

    def _text_linears(self, parts: VLMParts) -> list[str]:
        """The linears of the language model that are held by what enters them."""
        if self.language_model is None or not self._language_inputs:
            return []
        return held_text_linears(self.language_model, parts.text_linears())


def _probe(session: Session, images: list[Image.Image]) -> Probe:
    inputs = image_inputs(session.parts, session.processor, images)
    return take_probe(session.parts, lambda: run_images(session.parts, inputs))
