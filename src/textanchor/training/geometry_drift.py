"""C3: how the geometry of the projector moves while a model is tuned, by any method, beside how far its weights move.

Shape legend: N visual tokens of the held-out images, D text width, I width of the last linear's inputs, K directions.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from textanchor.data.texts import load_texts
from textanchor.errors import DataError, ModelError
from textanchor.geometry import linear_cka_debiased, principal_angles, principal_directions
from textanchor.holds import HoldPlan, fit_anchor, take_probe
from textanchor.holds.sources import TEXT_EMBEDDING
from textanchor.spectral import MomentsStream, input_basis, output_basis
from textanchor.training.config import PART_NAMES
from textanchor.training.curve import StepCallback
from textanchor.training.session import Session
from textanchor.vlm.passes import image_inputs, run_images

LEAST_TOKENS = 32


class GeometryRecorder(StepCallback):
    """Appends the geometry of the projector on held-out `images` at the steps of `on_steps`; see `measure`.

    Works with every method, held or not: `adapt(config, callbacks=[GeometryRecorder(steps, images)])`. The reference is
    the model as it is before the first step, also in a run that is resumed. Memory: the projector's inputs and outputs
    on the images. U are the `num_directions` leading directions of the embeddings of `texts` (ours by default), V those
    of what enters the projector's last linear.
    """

    name = "geometry"

    def __init__(
        self,
        on_steps: Iterable[int],
        images: Sequence[Image.Image],
        *,
        num_directions: int = 32,
        texts: Sequence[str] | None = None,
    ):
        super().__init__(on_steps)
        self.images, self.num_directions = list(images), num_directions
        self.texts = [row.text for row in load_texts("train")] if texts is None else list(texts)

    def on_run_begin(self, session: Session, plan: HoldPlan | None) -> None:
        """Take the reference; DataError where the images give too few tokens to compare."""
        self.session, parts = session, session.parts
        inputs = image_inputs(parts, session.processor, self.images)
        try:
            self.last: str | None = parts.last_projector_linear()[0]
        except ModelError:  # such a projector has no W between U and V; its function is recorded all the same
            self.last = None
        linears = [] if self.last is None else [self.last]
        self.probe = take_probe(parts, lambda: run_images(parts, inputs), linears=linears)
        assert self.probe.outputs_ND is not None
        self.start_ND = self.probe.outputs_ND
        if len(self.start_ND) < LEAST_TOKENS:
            raise DataError(
                f"the {len(self.images)} held-out images give {len(self.start_ND)} visual tokens, and the geometry of "
                f"fewer than {LEAST_TOKENS} says nothing; give more images"
            )
        text = fit_anchor(session.model, session.processor, self.texts, parts=parts, linears=[])[TEXT_EMBEDDING]
        self.text_DK = output_basis(text).directions_DK[:, : self.num_directions]
        self.inputs_IK = None if self.last is None else _leading_inputs(self.probe.inputs[self.last], self.text_DK)
        rank = int(torch.linalg.matrix_rank(self.start_ND - self.start_ND.mean(dim=0)))
        self.start_DK = principal_directions(self.start_ND, min(self.num_directions, rank))

    @torch.no_grad()
    def measure(self, step: int) -> dict[str, Any]:
        """One entry.

        - `coupling`: ||U^T (W - W0) V||_F over ||W0||_F of the last linear, `coupling_share` over ||W - W0||_F;
        - `angle_mean`, `angle_max`: principal angles (degrees) of the visual subspace to that at the start;
        - `text_angle_mean`: to the text directions U;
        - `cka`: debiased, of the visual tokens to those at the start;
        - `function_drift`, `function_drift_normalised`: E||f - f0||^2 / E||f0||^2, of the tokens as they are and after
          each is divided by its root mean square, which is what the language model reads; `norm_ratio` of their norms;
        - `relative_update`: ||W - W0||_F / ||W0||_F of each trained part.

        Keys without a value (no last linear in text space; nothing moved yet) are null.
        """
        now_ND = self.probe.outputs_of(self.session.model)
        now_DK = principal_directions(now_ND, self.start_DK.shape[1])
        angles = torch.rad2deg(principal_angles(self.start_DK, now_DK))
        start_rms, now_rms = _rms_normalised(self.start_ND), _rms_normalised(now_ND)
        return {
            **self._weights(),
            "angle_mean": float(angles.mean()),
            "angle_max": float(angles.max()),
            "text_angle_mean": float(torch.rad2deg(principal_angles(self.text_DK, now_DK)).mean()),
            "cka": linear_cka_debiased(self.start_ND, now_ND),
            "function_drift": _relative_energy(now_ND - self.start_ND, self.start_ND),
            "function_drift_normalised": _relative_energy(now_rms - start_rms, start_rms),
            "norm_ratio": float(now_ND.norm(dim=1).mean() / self.start_ND.norm(dim=1).mean()),
        }

    def _weights(self) -> dict[str, Any]:
        start_energy: dict[str, float] = defaultdict(float)
        energy: dict[str, float] = defaultdict(float)
        coupling: float | None = None
        share: float | None = None
        for update in self.session.start.updates():
            start_energy[update.part] += update.start_norm**2
            size = float(update.delta.norm())
            energy[update.part] += size**2
            if self.last is not None and update.name == f"{self.last}.weight" and self.inputs_IK is not None:
                held = float((self.text_DK.T @ update.delta.cpu().double() @ self.inputs_IK).norm())
                coupling, share = held / update.start_norm, held / size if size else None
        relative = {part: math.sqrt(energy[part] / start_energy[part]) for part in PART_NAMES if start_energy[part] > 0}
        return {"coupling": coupling, "coupling_share": share, "relative_update": relative}


def _leading_inputs(inputs_NI: Tensor, text_DK: Tensor) -> Tensor:
    """(I, K) directions of what enters the last linear, as many as there are text directions, its mean first."""
    stream = MomentsStream(inputs_NI.shape[1], source="inputs of the projector's last linear")
    stream.add(inputs_NI)
    return input_basis(stream.moments(), with_constant=False).directions_DK[:, : text_DK.shape[1]]


def _rms_normalised(states_ND: Tensor) -> Tensor:
    return states_ND / states_ND.square().mean(dim=1, keepdim=True).sqrt().clamp_min(torch.finfo(states_ND.dtype).tiny)


def _relative_energy(change_ND: Tensor, start_ND: Tensor) -> float:
    return float(change_ND.square().sum() / start_ND.square().sum())
