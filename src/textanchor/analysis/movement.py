"""Who moves when both halves are tuned together: two short tunings, a shift of the images and one of the text.

Both tunings train the same things (LoRA of one rank and rate on the projector and on the language model) on the same
images and captions, once with the images as negatives, once with the captions in capital letters. Held-out images and
texts, unshifted, show how far each modality's states go. The two are compared where both have learned equally much.

The model is given back with the weights it came with.

Shape legend: G images or texts held out, N tokens, D width.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from PIL import ImageOps
from torch import Tensor, nn

from textanchor.analysis.passes import QUESTION, ImageReceivers, Passes
from textanchor.analysis.states import five_depths
from textanchor.analysis.tables import Numbers, as_json
from textanchor.data.captioned import CaptionedImage
from textanchor.data.items import Conversation, Turn, open_image
from textanchor.errors import DataError
from textanchor.evaluation.scoring.prompting import tokenizer_of
from textanchor.evaluation.suite import measuring
from textanchor.geometry import StateFolds, jackknife_each
from textanchor.training.collate import Collator
from textanchor.training.config import PartConfig, PartsConfig
from textanchor.training.curve import log_spaced_steps
from textanchor.training.sequences import encode
from textanchor.training.trainable import set_up_training, trained_parameters
from textanchor.training.updates import StartWeights
from textanchor.vlm.names import unwrapped
from textanchor.vlm.parts import find_parts

RANK, LEARNING_RATE, BATCH_SIZE, NUM_POINTS = 8, 1e-3, 4, 4
NUM_HELD_OUT, NUM_SCORED = 40, 12
LEAST_TRAINED = 20
MATCHED_SHARE = 0.9
"""Of the smaller of the two loss reductions: where the two tunings are compared."""

Table = dict[tuple[str, int], Tensor]
"""(modality, depth) -> (G, 2) squared way that each image or text went, and squared spread at the start."""


@dataclass(frozen=True)
class Point:
    """One tuning at one step."""

    step: int
    reduction: float
    """Held-out loss at the start less that now, nats per answer token."""
    updates: dict[str, float]
    """||Delta W||_F / ||W0||_F of projector and language model."""
    moved: Table


def movement_numbers(
    model: Any,
    processor: Any,
    images: Sequence[CaptionedImage],
    texts: Sequence[str],
    *,
    steps: int,
    seed: int,
    max_text_tokens: int,
    say: Callable[[str], None],
) -> Numbers:
    """Displacements at depths above the entry after both tunings, and their ratios with intervals.

    DataError where there are too few images with captions, or where a tuning does not lower its loss.
    """
    captioned = [image for image in images if image.captions]
    if len(captioned) < NUM_HELD_OUT + LEAST_TRAINED or len(texts) < NUM_HELD_OUT:
        raise DataError(
            f"the joint tunings need {NUM_HELD_OUT + LEAST_TRAINED} images with captions and {NUM_HELD_OUT} texts, "
            f"found {len(captioned)} and {len(texts)}"
        )
    held_out, trained = captioned[:NUM_HELD_OUT], captioned[NUM_HELD_OUT:]
    courses = {}
    for name, shift in SHIFTS.items():
        say(f"{steps} steps of joint tuning on shifted {name}")
        tuning = _Tuning(model, processor, held_out, list(texts[:NUM_HELD_OUT]), max_text_tokens)
        examples = [
            [encode(shift(image), processor, max_tokens=None) for image in part] for part in (trained, held_out)
        ]
        courses[name] = tuning.course(*examples, steps=steps, seed=seed)
    return _compared(courses, five_depths(Passes(find_parts(model), processor).num_layers)[1:], steps)


def _conversation(image: CaptionedImage, *, negative: bool = False, capitals: bool = False) -> Conversation:
    picture, caption = open_image(image.image), image.captions[0]
    return Conversation(
        id=image.id,
        turns=(Turn(question=QUESTION, answer=caption.upper() if capitals else caption),),
        images=(ImageOps.invert(picture) if negative else picture,),
    )


SHIFTS: dict[str, Callable[[CaptionedImage], Conversation]] = {
    "images": lambda image: _conversation(image, negative=True),
    "text": lambda image: _conversation(image, capitals=True),
}


class _Tuning:
    """One tuning of a model that is given back unchanged, with what is measured on the way."""

    def __init__(
        self, model: Any, processor: Any, images: Sequence[CaptionedImage], texts: list[str], max_text_tokens: int
    ):
        self.model, self.processor, self.images, self.texts = model, processor, images, texts
        self.max_text_tokens = max_text_tokens

    def course(self, trained: Sequence[Any], scored: Sequence[Any], *, steps: int, seed: int) -> list[Point]:
        """Points at log-spaced steps."""
        needed_gradient = {name: parameter.requires_grad for name, parameter in self.model.named_parameters()}
        part = PartConfig(train="lora", rank=RANK, learning_rate=LEARNING_RATE)
        parts = set_up_training(self.model, PartsConfig(projector=part, language_model=part), seed=seed)
        try:
            return self._trained(parts, trained, scored, steps, seed)
        finally:
            parts.model.unload()  # pyright: ignore[reportCallIssue]  takes the LoRA layers out again
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(needed_gradient[name])

    def _trained(self, parts: Any, trained: Sequence[Any], scored: Sequence[Any], steps: int, seed: int) -> list[Point]:
        model: nn.Module = parts.model
        passes, start = Passes(parts, self.processor), StartWeights(parts)
        collate = Collator(tokenizer_of(self.processor).pad_token_id or 0)
        optimizer = torch.optim.AdamW(trained_parameters(model).values(), lr=LEARNING_RATE, weight_decay=0.0)
        states = _states(passes, self.images, self.texts, self.max_text_tokens)
        first_loss = _loss(model, collate, scored[:NUM_SCORED])
        points = []
        order = torch.randperm(len(trained), generator=torch.Generator().manual_seed(seed)).tolist()
        chosen = itertools.cycle(order)
        for step in range(1, steps + 1):
            batch = collate([trained[next(chosen)] for _ in range(BATCH_SIZE)])
            loss = model(**{key: value.to(passes.device) for key, value in batch.items()}).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step in log_spaced_steps(steps, NUM_POINTS):
                moved = _moved(states, _states(passes, self.images, self.texts, self.max_text_tokens))
                reduction = first_loss - _loss(model, collate, scored[:NUM_SCORED])
                points.append(Point(step, reduction, _relative_updates(start), moved))
        return points


def _loss(model: nn.Module, collate: Collator, examples: Sequence[Any]) -> float:
    """Mean loss over batches of examples, nats per answer token."""
    device = next(unwrapped(model).parameters()).device
    with measuring(model):
        losses = [
            float(model(**{key: value.to(device) for key, value in collate(examples[i : i + BATCH_SIZE]).items()}).loss)
            for i in range(0, len(examples), BATCH_SIZE)
        ]
    return sum(losses) / len(losses)


def _states(passes: Passes, images: Sequence[CaptionedImage], texts: list[str], max_tokens: int) -> dict[Any, Tensor]:
    """(modality, depth, index) -> (N, D) states of held-out images and texts."""
    states: dict[tuple[str, int, int], Tensor] = {}
    depths = five_depths(passes.num_layers)[1:]
    receivers = ImageReceivers(
        at_depth=lambda depth, index, x_ND: states.__setitem__(("visual", depth, index), x_ND.double().cpu()),
        tower=lambda index, x_ND: None,
        projected=lambda index, x_ND: None,
    )
    with measuring(passes.parts.model):
        passes.run_images((image.image for image in images), receivers, depths)
        passes.run_texts(
            texts,
            lambda depth, index, x_ND, ids_N: states.__setitem__(("text", depth, index), x_ND.double().cpu()),
            max_tokens=max_tokens,
            depths=depths,
        )
    return states


def _moved(before: dict[Any, Tensor], after: dict[Any, Tensor]) -> Table:
    """How far the unit states of each image or text went, beside how far they lie from their modality's mean."""
    units = {key: nn.functional.normalize(x_ND, dim=1) for key, x_ND in before.items()}
    means = {
        place: torch.cat([x_ND for (*own, _), x_ND in units.items() if tuple(own) == place]).mean(dim=0)
        for place in {(modality, depth) for modality, depth, _ in units}
    }
    rows: dict[tuple[str, int], list[Tensor]] = {place: [] for place in sorted(means)}
    for (modality, depth, index), x_ND in units.items():
        change_ND = nn.functional.normalize(after[modality, depth, index], dim=1) - x_ND
        offset_ND = x_ND - means[modality, depth]
        rows[modality, depth].append(torch.stack([change_ND.square().sum(), offset_ND.square().sum()]))
    return {place: torch.stack(found) for place, found in rows.items()}


def _relative_updates(start: StartWeights) -> dict[str, float]:
    energy: dict[str, list[float]] = {}
    for update in start.updates():
        sums = energy.setdefault(update.part, [0.0, 0.0])
        sums[0] += float(update.delta.norm()) ** 2
        sums[1] += update.start_norm**2
    return {part: (moved / whole) ** 0.5 for part, (moved, whole) in energy.items()}


def _compared(courses: dict[str, list[Point]], depths: Sequence[int], steps: int) -> Numbers:
    reached = {name: max(point.reduction for point in points) for name, points in courses.items()}
    for name, reduction in reached.items():
        if reduction <= 0:
            raise DataError(f"{steps} steps on shifted {name} did not lower the held-out loss; allow more steps")
    level = MATCHED_SHARE * min(reached.values())
    matched = {name: _first_at(points, level) for name, points in courses.items()}
    return {
        "steps": steps,
        "level": level,
        "courses": {
            name: [
                {"step": point.step, "loss_reduction": point.reduction, "relative_update": point.updates}
                for point in points
            ]
            for name, points in courses.items()
        },
        "matched": {
            name: {"step": point.step, "loss_reduction": point.reduction, "relative_update": point.updates}
            for name, point in matched.items()
        },
        "depths": [{"depth": depth, **_ratios(matched, depth)} for depth in depths],
    }


def _first_at(points: Sequence[Point], level: float) -> Point:
    return next(point for point in points if point.reduction >= level)


def _ratios(matched: dict[str, Point], depth: int) -> Numbers:
    """Displacements, and the two claims' logarithms, jackknifed over images and over texts."""
    tables = {
        modality: torch.cat([matched[name].moved[modality, depth] for name in ("images", "text")], dim=1)
        for modality in ("visual", "text")
    }
    folds = [StateFolds.of(tables[modality], torch.arange(len(tables[modality]))) for modality in ("visual", "text")]
    sizes = {name: log(p.updates["language_model"] / p.updates["projector"]) for name, p in matched.items()}

    def measure(visual_G4: Tensor, text_G4: Tensor) -> dict[str, float]:
        ways = {}
        for place, name in enumerate(("images", "text")):
            for modality, table_G4 in (("visual", visual_G4), ("text", text_G4)):
                moved, spread = table_G4[:, 2 * place : 2 * place + 2].sum(dim=0).tolist()
                ways[f"{modality}_by_{name}"] = (moved / spread) ** 0.5
        text_over_visual = {n: log(ways[f"text_by_{n}"] / ways[f"visual_by_{n}"]) - sizes[n] for n in sizes}
        return ways | {
            # -log of the control's mirror image: visual over text where the text is shifted
            "rigidity": text_over_visual["images"] + text_over_visual["text"],
            "movement": -text_over_visual["images"],
        }

    return {name: as_json(interval) for name, interval in jackknife_each(folds, measure).items()}
