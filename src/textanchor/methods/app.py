"""Anchor-Preserving Projection: what is trained is kept off the directions that the model's text lives in."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from rich.progress import Progress

from textanchor.data.items import open_image
from textanchor.data.json_rows import read_rows
from textanchor.data.tasks import load_items
from textanchor.data.texts import load_texts
from textanchor.errors import ConfigError, DataError, HoldError
from textanchor.holds import Anchor, FilterConfig, HoldPlan, Probe, fit_anchor, plan_holds, take_probe
from textanchor.training.config import PartsConfig
from textanchor.training.hf import AnchorCallback
from textanchor.training.method import AbstractMethod, Attachment, Needs
from textanchor.training.session import Session
from textanchor.vlm.names import unwrapped

NUM_PROBE_IMAGES = 8
"""Further reference images, on which the audit measures the function leak: the anchor is not fitted on them."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True, kw_only=True)
class ReferenceImages:
    """Unlabelled images like those that the model is to stay good at."""

    num_images: int
    """How many the anchor is fitted on, where it needs images; the 8 after them measure the function leak."""
    task: str | None = None
    """A task of textanchor's own, whose validation split is used; give this or folder."""
    folder: Path | None = None
    """A folder of images, taken in the order of their names."""

    def __post_init__(self) -> None:
        if (self.task is None) == (self.folder is None):
            raise ConfigError("give exactly one of task and folder for the reference images")
        if self.num_images < 1:
            raise ConfigError(f"num_images must be at least 1, found {self.num_images}")

    def load(self) -> tuple[list[Image.Image], list[Image.Image]]:
        """Images for the anchor and, apart from them, for the probe; DataError where there are too few."""
        number = self.num_images + NUM_PROBE_IMAGES
        if self.task is not None:
            items = load_items(self.task, split="validation", num_items=number)
            sources = [item.image for item in items if item.image is not None]
        else:
            assert self.folder is not None  # one of both is given
            files = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
            sources = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES][:number]
        if len(sources) < number:
            raise DataError(
                f"{self.task or self.folder}: {len(sources)} reference images, but num_images={self.num_images} and "
                f"{NUM_PROBE_IMAGES} to measure with need {number}; add images or lower num_images"
            )
        images = [open_image(source) for source in sources]
        return images[: self.num_images], images[self.num_images :]


@dataclass(frozen=True, kw_only=True)
class AnchorPreservingProjection(AbstractMethod):
    """After each optimizer step, Delta = W - W0 gives up (or is limited in) its protected part P_out Delta P_in.

    P_out and P_in are spectral filters U diag(g) U^T on the directions of an anchor: moments of the model's own states
    on text, and for the inputs of the projector on reference images. `FilterConfig` says which side, how many
    directions, with which gains, and how hard. Every tensor of a held part has a rule or is frozen.

    Source: our definition after the abstract of "The Dominance of Text Space" (ACL 2026, 1699), whose formula is not
    public; mode inputs with hold exact on full weights is the null-space family (Adam-NSCL, arXiv 2103.07113).
    """

    projector: FilterConfig | None = None
    """What is held of the projector; it is free where this is left out."""
    language_model: FilterConfig | None = None
    """What is held of the language model; it is free where this is left out."""
    texts: Path | None = None
    """Texts of the anchor: a .txt file with one on each line, or JSON rows with `text`; ours where it is left out."""
    num_texts: int | None = None
    """Number of texts to take, from the first; all where it is left out."""
    reference: ReferenceImages | None = None
    """Images, needed where the projector is held by its inputs or with pullback; otherwise they only measure."""
    anchor: Path | None = None
    """A saved anchor to use, in place of fitting one."""

    def __post_init__(self) -> None:
        if self.projector is None and self.language_model is None:
            raise ConfigError("method app holds nothing; give it projector, language_model or both, each with a filter")
        if self.anchor is not None and (self.texts or self.num_texts):
            raise ConfigError("texts and num_texts have no effect beside a saved anchor; remove them")
        if self._takes_images and self.anchor is None and self.reference is None:
            raise ConfigError(
                "projector with mode inputs or inner pullback needs an anchor that was fitted on images: add reference "
                "(task or folder, and num_images), or anchor"
            )
        if self.num_texts is not None and self.num_texts < 1:
            raise ConfigError(f"num_texts must be at least 1, found {self.num_texts}")

    @property
    def _takes_images(self) -> bool:
        held = self.projector
        return held is not None and (held.mode == "inputs" or held.inner == "pullback")

    @property
    def needs(self) -> Needs:
        """Text alone, unless the projector is held by what enters it."""
        return "reference images" if self._takes_images else "text"

    def check_parts(self, parts: PartsConfig) -> None:
        """Raise ConfigError where a part is held that is not trained."""
        for name in self._filters():
            if name not in parts.trained():
                raise ConfigError(
                    f"method.{name} holds a part that parts.{name}.train: frozen does not train; remove it"
                )

    def start(self, session: Session) -> Attachment:
        """Fit the anchor, plan, freeze what has no rule, and hold by a callback."""
        images, probed = ([], []) if self.reference is None else self.reference.load()
        plan = self._plan(session, images)
        plan.freeze(session.model)
        probe = _probe(session, probed) if probed else None
        callback = AnchorCallback(plan)
        penalty = None if plan.projector is None else callback.penalty
        return Attachment(callbacks=(callback,), penalty=penalty, plan=plan, probe=probe)

    def _filters(self) -> dict[str, FilterConfig]:
        given = {"projector": self.projector, "language_model": self.language_model}
        return {name: held for name, held in given.items() if held is not None}

    def _plan(self, session: Session, images: list[Image.Image]) -> HoldPlan:
        """The plan, made once: a resumed run takes the one it began with, which holds what was held before."""
        saved = session.workspace / "plan"
        if session.is_resumed:
            return HoldPlan.load(saved, session.model)
        plan = plan_holds(session.parts, self._anchor(session, images), self._filters())
        if session.config.training.save_steps is not None:
            plan.save(saved, overwrite=True)
        return plan

    def _anchor(self, session: Session, images: list[Image.Image]) -> Anchor:
        if self.anchor is not None:
            anchor = Anchor.load(self.anchor)
            if anchor.provenance.get("model_hash") != session.model_hash:
                raise HoldError(
                    f"{self.anchor}: this anchor was fitted on another model than {session.config.model}; fit one on it"
                )
            return anchor
        held = self.language_model
        with Progress(transient=True) as progress:
            task = progress.add_task("anchor", total=None)
            return fit_anchor(
                session.model,
                session.processor,
                read_texts(self.texts, self.num_texts),
                images if self._takes_images else None,
                parts=session.parts,
                linears=None if held is not None and held.mode == "inputs" else [],
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )


def read_texts(path: Path | None, num_texts: int | None) -> list[str]:
    """Texts of a .txt file (one on each line), of JSON rows with `text`, or ours; DataError naming file and place."""
    texts = [row.text for row in load_texts("train")] if path is None else list(_texts_of(path))
    if num_texts is not None and len(texts) < num_texts:
        raise DataError(f"{path or 'the shipped texts'}: {len(texts)} texts, fewer than num_texts={num_texts}")
    return texts[:num_texts]


def _texts_of(path: Path) -> Iterator[str]:
    if path.suffix == ".txt":
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read as text ({error}); give a UTF-8 file") from error
        yield from (line for line in lines if line.strip())
        return
    for place, row in read_rows(path):
        if not isinstance(row.get("text"), str):
            raise DataError(f"{place}: expected a row with `text`, found {', '.join(row) or 'nothing'}")
        yield row["text"]


def _probe(session: Session, images: list[Image.Image]) -> Probe:
    visual: Any = session.processor.image_processor(images=images, return_tensors="pt")
    model: Any = unwrapped(session.model)
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in visual.items()}
    return take_probe(session.parts, lambda: model.get_image_features(**inputs))
