"""Images as projected tokens: each passes the tower once, and an unchanged tower is not asked twice.

Shape legend: N tokens of one image, D text width.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from textanchor.data.items import ImageSource, open_image
from textanchor.errors import ModelError
from textanchor.evaluation.scoring.prompting import as_taken_by, tokenizer_of
from textanchor.evaluation.scoring.token_tree import ImageToken, Token
from textanchor.vlm.chat import process
from textanchor.vlm.hashing import tensors_hash
from textanchor.vlm.names import unwrapped
from textanchor.vlm.parts import VLMParts, find_parts
from textanchor.vlm.passes import run_images

ROW_BY_ROW = "in Python, EvaluationOptions(sharing='off') scores row by row"
"""Way out where questions cannot share an image's tokens."""
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True)
class ProjectedImage:
    """The tokens that stand in a prompt for one image, and the (N, D) states of those that show it."""

    tokens: tuple[Token, ...]
    states_ND: Tensor


@dataclass(frozen=True)
class _TowerOutput:
    placeholder_ids: tuple[int, ...]
    projector_input: Tensor


class TowerCache:
    """What the projector is given for each image, for as long as tower and image processor stay the same.

    Give one cache to all evaluations of a run that trains projector and language model only; it notices by itself when
    the tower has changed. Memory: the tower's tokens times its width for each image, 113 kB with the embedded model.
    """

    def __init__(self) -> None:
        self._source = ""
        self._outputs: dict[str, _TowerOutput] = {}

    def __len__(self) -> int:
        return len(self._outputs)

    def outputs_of(self, source: str) -> dict[str, _TowerOutput]:
        """Outputs by image hash; empty where the last evaluation's tower, named by its hash, was another one."""
        if source != self._source:
            self._source, self._outputs = source, {}
        return self._outputs


class ImageProjector:
    """Projects images of one model whose visual tokens are exactly what its projector returns."""

    def __init__(self, model: nn.Module, processor: Any, cache: TowerCache | None):
        self.model: Any = unwrapped(model)
        self.processor = processor
        self.parts = find_parts(model)
        self.projector = self.parts.module(self.parts.projector[0])
        self.outputs = {} if cache is None else cache.outputs_of(_tower_hash(self.parts, processor))

    def project(self, images: Mapping[str, ImageSource]) -> dict[str, ProjectedImage]:
        """Projected tokens of each image, by the hash it is given under; the projector is always run anew."""
        for name, source in images.items():
            if name not in self.outputs:
                self.outputs[name] = self._through_tower(source)
        by_shape: dict[tuple[int, ...], list[str]] = {}
        for name in images:
            by_shape.setdefault(tuple(self.outputs[name].projector_input.shape), []).append(name)
        projected = {}
        for names in by_shape.values():
            states = self.projector(torch.cat([self.outputs[name].projector_input for name in names]))
            for name, own in zip(names, states.chunk(len(names)), strict=True):
                projected[name] = ProjectedImage(self._tokens(name), own.reshape(-1, own.shape[-1]))
        return projected

    def _tokens(self, name: str) -> tuple[Token, ...]:
        ids, placeholder = self.outputs[name].placeholder_ids, self.model.config.image_token_id
        indices = iter(range(len(ids)))
        return tuple(ImageToken(name, next(indices)) if token == placeholder else token for token in ids)

    def _through_tower(self, source: ImageSource) -> _TowerOutput:
        inputs = process(
            self.processor,
            text=[self.processor.image_token],
            images=[[open_image(source)]],
            add_special_tokens=False,
            return_tensors="pt",
        )
        inputs = as_taken_by(self.model, inputs)
        visual = {k: v for k, v in inputs.items() if k not in TEXT_INPUTS}
        seen: list[Tensor] = []
        hook = self.projector.register_forward_pre_hook(lambda module, args: seen.extend(args))
        try:
            given = run_images(self.parts, visual)
        finally:
            hook.remove()
        ids = tuple(inputs["input_ids"][0].tolist())
        self._check(seen, getattr(given, "pooler_output", None), ids)
        return _TowerOutput(ids, seen[0])

    def _check(self, seen: list[Tensor], features: Sequence[Tensor] | None, ids: tuple[int, ...]) -> None:
        """The cache holds what goes into the projector, so nothing may happen to its output afterwards."""
        rows = [image.reshape(-1, image.shape[-1]) for image in features] if features is not None else []
        if not all(torch.isfinite(own).all() for own in rows):
            raise ModelError(
                f"{type(self.model).__name__} makes NaN or infinite numbers of an image, so its weights are damaged; "
                "`textanchor diff BASE MODEL` names the tensors"
            )
        sound = len(rows) > 0 and len(seen) == 1
        sound = sound and ids.count(self.model.config.image_token_id) == sum(len(own) for own in rows)
        if sound:
            again, features_ND = self.projector(seen[0]), torch.cat(rows)
            sound = torch.equal(again.reshape(-1, again.shape[-1]), features_ND)
        if not sound:
            raise ModelError(
                f"{type(self.model).__name__} does more with an image than its projector does, so questions cannot "
                f"share its tokens; {ROW_BY_ROW}"
            )


def expanded(ids: Iterable[int], image: ProjectedImage | None, processor: Any) -> list[Token]:
    """Token ids with the tokens of the image in the place of its one placeholder."""
    if image is None:
        return list(ids)
    placeholder = tokenizer_of(processor).convert_tokens_to_ids(processor.image_token)
    return [token for i in ids for token in (image.tokens if i == placeholder else (i,))]


def _tower_hash(parts: VLMParts, processor: Any) -> str:
    tower = parts.module(parts.vision_tower)
    weights = tensors_hash([*parts.parameters_of("vision_tower").items(), *tower.named_buffers()])
    return f"{weights} {processor.image_processor.to_json_string()}"
