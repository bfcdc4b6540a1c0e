"""`textanchor measure`: the numbers of one model on one set of images, and the page that shows them."""

import importlib.util
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from textanchor import __version__
from textanchor.analysis.claims import c1, c2, moving
from textanchor.analysis.claims.claim import ClaimResult, overall
from textanchor.analysis.claims.margins import VERSION as MARGINS_VERSION
from textanchor.analysis.config import MeasureConfig
from textanchor.analysis.gather import PROJECTED, TEXT, TOWER, VISUAL, Gathered, gather
from textanchor.analysis.lenses import lens_numbers
from textanchor.analysis.movement import movement_numbers
from textanchor.analysis.passes import Passes
from textanchor.analysis.predictability import LEAST_PAIRS, coverage_numbers, prediction_numbers
from textanchor.analysis.reference import random_weights_numbers
from textanchor.analysis.states import Sample, place_of
from textanchor.analysis.subspaces import subspace_numbers
from textanchor.analysis.tables import (
    Numbers,
    between_numbers,
    gap_map,
    integration_numbers,
    neighbor_numbers,
    pair_numbers,
    place_numbers,
)
from textanchor.config import to_dict
from textanchor.data.captioned import CaptionedImage, load_captioned
from textanchor.data.texts import read_texts
from textanchor.errors import ConfigError
from textanchor.evaluation.suite import image_hash
from textanchor.files import atomic_directory, sha256_of_json, write_json
from textanchor.records import environment, memory_cost
from textanchor.report.documents import GEOMETRY
from textanchor.vlm.hashing import tensors_hash
from textanchor.vlm.loading import load_vlm
from textanchor.vlm.parts import find_parts

FORMAT_VERSION = 1
NUM_REFERENCE_TEXTS = 64

Say = Callable[[str], None]


def measure_to_folder(config: MeasureConfig, out: Path, *, command: Sequence[str], say: Say) -> Numbers:
    """Measure and write geometry.json and geometry.html into the folder `out`, which must be empty or not exist.

    TextanchorError before anything is written where model or data cannot be used.
    """
    missing = [name for name in ("scipy", "skdim") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"measuring needs {' and '.join(missing)}: pip install 'textanchor[geometry]'")
    with atomic_directory(out) as folder:
        images = load_captioned(config.data, num_images=config.num_images, seed=config.seed)
        texts = read_texts(config.texts, config.num_texts)
        model, processor = load_vlm(config.model)
        numbers = measure(model, processor, images, texts, config, say=say) | {"command": list(command)}
        write_json(folder / GEOMETRY.file, numbers)
        GEOMETRY.build(numbers, folder / GEOMETRY.page)
    return numbers


def measure(
    model: Any,
    processor: Any,
    images: Sequence[CaptionedImage],
    texts: Sequence[str],
    config: MeasureConfig,
    *,
    say: Say = lambda text: None,
) -> Numbers:
    """The content of geometry.json; the model is given back as it was.

    DataError where there are too few tokens, images or captions for a measure that everything else rests on.
    """
    began = time.monotonic()
    passes = Passes(find_parts(model), processor)
    say(f"states of {len(images)} images, {len(texts)} texts and the images' captions")
    gathered = gather(passes, images, texts, max_text_tokens=config.max_text_tokens, seed=config.seed)
    say("measures of each place")
    places, spectra, not_measured = _places(gathered)
    say("subspaces, neighbours, pairs")
    at_depths = {depth: _at_depth(gathered, depth, config.seed) for depth in gathered.depths}
    pairs, without_pairs = _pairs(gathered, config.seed)
    not_measured += without_pairs
    reference_texts = texts[:NUM_REFERENCE_TEXTS]
    say("a language model with random weights, for reference")
    numbers = {
        "format_version": FORMAT_VERSION,
        "title": f"Geometry of {config.model} on {Path(config.data).name}",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "textanchor_version": __version__,
        "environment": environment(),
        "config": to_dict(config),
        "margins_version": MARGINS_VERSION,
        "model": _model_facts(passes, config),
        "data": _data_facts(images, texts, config),
        "depths": list(gathered.depths),
        "places": places,
        "spectra": spectra,
        "between": between_numbers(gathered),
        "integration": integration_numbers(gathered),
        "subspaces": [{"depth": depth, **found["subspaces"]} for depth, found in at_depths.items()],
        "coverage": [{"depth": depth, **found["coverage"]} for depth, found in at_depths.items()],
        "dimension": neighbor_numbers(gathered),
        "pairs": pairs,
        "gap_map": [gap_map(gathered, depth) for depth in (0, gathered.depths[len(gathered.depths) // 2])],
        "random_weights": random_weights_numbers(
            passes, reference_texts, gathered.depths, max_tokens=config.max_text_tokens, seed=config.seed
        ),
        "lens": lens_numbers(passes, gathered, images, num_shown=config.gallery_images),
        "not_measured": not_measured,
    }
    if config.tuning_steps:
        numbers["movement"] = movement_numbers(
            model,
            processor,
            images,
            texts,
            steps=config.tuning_steps,
            seed=config.seed,
            max_text_tokens=config.max_text_tokens,
            say=say,
        )
    else:
        why = "they need two short tunings; give --tuning-steps"
        not_measured.append({"what": "C1 rigidity and C2 who moves", "why": why})
    claims = claims_of(numbers)
    numbers["claims"] = [claim.to_dict() for claim in claims]
    numbers["verdicts"] = verdicts_of(claims)
    numbers["cost"] = {"seconds": time.monotonic() - began, **memory_cost()}
    return numbers


def claims_of(numbers: Numbers) -> list[ClaimResult]:
    """Every claim that the numbers of a geometry.json decide, at every sampled depth."""
    claims = []
    for depth in numbers["depths"]:
        claims.append(c1.anisotropy(_depth_name(depth), numbers["places"][place_of(TEXT, depth)]))
    for row in numbers["subspaces"]:
        claims.append(c1.dominance(_depth_name(row["depth"]), row))
    for row in numbers["coverage"]:
        claims.append(c2.coverage(_depth_name(row["depth"]), row))
    for row in numbers["pairs"]:
        claims.append(c2.predictability(_depth_name(row["depth"]), row["prediction"]))
        claims.append(c2.agreement(_depth_name(row["depth"]), row))
    for row in numbers["movement"]["depths"] if "movement" in numbers else ():
        claims.append(moving.rigidity(_depth_name(row["depth"]), row))
        claims.append(moving.movement(_depth_name(row["depth"]), row))
    return sorted(claims, key=lambda claim: (claim.claim, claim.name))


def verdicts_of(claims: Sequence[ClaimResult]) -> list[Numbers]:
    """Each claim over its depths: holds, or does not, only where it does so at every one."""
    names = dict.fromkeys((claim.claim, claim.name) for claim in claims)
    return [
        {
            "claim": claim,
            "name": name,
            "verdict": overall([c for c in claims if (c.claim, c.name) == (claim, name)]),
            "holds_at": [c.place for c in claims if (c.claim, c.name, c.verdict) == (claim, name, "holds")],
        }
        for claim, name in names
    ]


def _depth_name(depth: int) -> str:
    return f"depth {depth}"


def _places(gathered: Gathered) -> tuple[dict[str, Numbers], dict[str, list[float]], list[dict[str, str]]]:
    """Numbers of all places, spectra of those that were sampled, and why the tower's are not there if they are not."""
    sampled = {place_of(kind, depth) for kind in (VISUAL, TEXT) for depth in gathered.depths}
    places, spectra, not_measured = {}, {}, []
    for name, place in gathered.places.items():
        num_tokens, width = int(place.moments.count), place.moments.moments.width
        if name == TOWER and num_tokens <= width:  # it may be wider than text space, and no claim rests on it
            why = f"{num_tokens} tokens of width {width} cannot fill their space; measure more images"
            not_measured.append({"what": "the spectrum of the tower's outputs", "why": why})
            continue
        places[name], own = place_numbers(place, intervals=name in sampled)
        if name in sampled or name in (TOWER, PROJECTED):
            spectra[name] = [float(f"{share:.4g}") for share in own]
    return places, spectra, not_measured


def _at_depth(gathered: Gathered, depth: int, seed: int) -> dict[str, Numbers]:
    visual, text = (_sample(gathered, kind, depth) for kind in (VISUAL, TEXT))
    return {
        "subspaces": subspace_numbers(visual, text, seed=seed),
        "coverage": coverage_numbers(visual, text, seed=seed),
    }


def _sample(gathered: Gathered, kind: str, depth: int) -> Sample:
    sample = gathered.places[place_of(kind, depth)].sample
    assert sample is not None
    return sample


def _pairs(gathered: Gathered, seed: int) -> tuple[list[Numbers], list[dict[str, str]]]:
    num_pairs = 0 if gathered.pairs is None else len(gathered.pairs.image_ids)
    if gathered.pairs is None or num_pairs < LEAST_PAIRS:
        why = f"{num_pairs} of the images have captions, fewer than {LEAST_PAIRS}"
        return [], [{"what": "C2 predictability and neighbour agreement", "why": why}]
    rows = pair_numbers(gathered.pairs, seed)
    for row in rows:
        visual_PD, text_PD = (table[row["depth"]] for table in (gathered.pairs.visual_PD, gathered.pairs.text_PD))
        row["prediction"] = prediction_numbers(visual_PD, text_PD, seed=seed)
    return rows, []


def _model_facts(passes: Passes, config: MeasureConfig) -> Numbers:
    parts = passes.parts
    return {
        "name": config.model,
        "parameters": sum(parameter.numel() for parameter in passes.model.parameters()),
        "vision_tower": parts.vision_tower,
        "projector": ", ".join(parts.projector),
        "language_model": parts.language_model,
        "num_layers": passes.num_layers,
        "width": parts.embedding_width(),
        "hash": tensors_hash(passes.model.state_dict().items()),
    }


def _data_facts(images: Sequence[CaptionedImage], texts: Sequence[str], config: MeasureConfig) -> Numbers:
    return {
        "name": Path(config.data).name,
        "num_images": len(images),
        "num_captioned": sum(bool(image.captions) for image in images),
        "texts": "shipped with textanchor" if config.texts is None else config.texts.name,
        "num_texts": len(texts),
        "images_hash": sha256_of_json([[image_hash(image.image), image.captions] for image in images]),
        "texts_hash": sha256_of_json(list(texts)),
    }
