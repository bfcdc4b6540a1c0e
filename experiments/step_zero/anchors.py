"""The anchors that the bands come from, fitted once into the work folder."""

import torch
from bands import Bands
from bands.overlap import fit_folds, merged_anchor
from bench import Bench, reference_items, told

from textanchor.config import to_dict
from textanchor.data.items import open_image
from textanchor.data.texts import read_texts
from textanchor.files import sha256_of_json
from textanchor.holds import Anchor, fit_anchor
from textanchor.holds.anchor import INPUTS
from textanchor.holds.sources import REFERENCE_SENSITIVITY, TEXT_SENSITIVITY, VISUAL


def reference_images(bench: Bench, num_images: int, *, skip: int = 0) -> list:
    """Decoded images of the references."""
    items = reference_items(bench.settings, num_images, skip=skip)
    return [open_image(item.image) for item in items if item.image is not None]


def anchor_folds(bench: Bench) -> tuple[list[Anchor], str]:
    """The anchor of each fold of references, and a hash of what decides them."""
    reference = bench.settings.reference
    asked = sha256_of_json([bench.model_hash, to_dict(reference)])
    folders = [bench.work / "anchors" / asked[:12] / f"fold-{fold}" for fold in range(reference.num_folds)]
    if not all(folder.is_dir() for folder in folders):
        told(f"fitting the anchor in {reference.num_folds} folds")
        items = reference_items(bench.settings, reference.num_images)
        bases = [*(f"hidden:{depth}" for depth in reference.hidden), TEXT_SENSITIVITY, VISUAL, REFERENCE_SENSITIVITY]
        folds = fit_folds(
            bench.model,
            bench.processor,
            read_texts(None, reference.num_texts),
            [open_image(item.image) for item in items if item.image is not None],
            [item.question for item in items],
            bases=bases,
            num_folds=reference.num_folds,
            progress=lambda fold: told(f"anchor fold {fold + 1} of {reference.num_folds}"),
        )
        for anchor, folder in zip(folds, folders, strict=True):
            anchor.save(folder, overwrite=True)
    return [Anchor.load(folder) for folder in folders], asked


def output_bands(bench: Bench) -> tuple[Bands, str]:
    """Bands of the projector's outputs and of its linears' inputs."""
    folds, asked = anchor_folds(bench)
    return Bands(merged_anchor(folds), bench.parts.embedding_width()), asked


def language_bands(bench: Bench, num_texts: int) -> Bands:
    """Bands of the inputs of the language model's linears, from texts; each decomposed when first asked for."""
    told("fitting the anchor of the language model's linears")
    with torch.no_grad():
        anchor = fit_anchor(bench.model, bench.processor, read_texts(None, num_texts))
    own = {name: moments for name, moments in anchor.moments.items() if name.startswith(f"{INPUTS}/")}
    return Bands(Anchor(own, anchor.aliases), bench.parts.embedding_width())
