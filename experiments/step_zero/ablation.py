"""(b) Bands taken out of an update of the projector at equal energy, and (d) the oracle y = P f0(v) + (I - P) f(v)."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from anchors import reference_images
from bands import (
    Bands,
    InputRemoval,
    Removal,
    outputs_changed,
    part_put_back,
    remove_inputs,
    remove_leading,
    remove_leading_inputs,
    remove_share,
    weights_replaced,
)
from bands.directions import is_of_inputs
from bands.projector import TunedProjector, projector_inputs, projector_module
from bench import Bench, new_images
from tune import Tuned

from textanchor.data.items import open_image
from textanchor.evaluation.suite import AbstractSuite
from textanchor.evaluation.suites.closed import ClosedSuite, guess_nats


class Ablation:
    """One update of the projector under all its conditions."""

    def __init__(self, bench: Bench, bands: Bands, bands_hash: str, update: Tuned) -> None:
        self.bench, self.bands, self.bands_hash, self.update = bench, bands, bands_hash, update
        settings = bench.settings.ablation
        self.retained = bench.suites(bench.settings.retained, settings.num_items)
        (new,) = bench.suites([update.task], settings.num_new_items)
        self.suites = [*self.retained, new]
        self.guess_nats = guess_nats(new.items if isinstance(new, ClosedSuite) else ())
        self.base = copy.deepcopy(projector_module(bench.parts))
        self.projector = TunedProjector.of(bench.parts, update.projector, drift_inputs(bench, update.task))
        self.drift_ND = self.projector.drift()
        self.drift_energy = float(self.drift_ND.square().sum() / self.projector.start_ND.square().sum())
        """E||f - f0||^2 / E||f0||^2 on held-out images."""

    def conditions(self) -> list[dict[str, Any]]:
        """The ends and the front of WiSE-FT, every removal, and the oracle where this seed is one of its seeds."""
        settings = self.bench.settings.ablation
        found = [base_rows(self.bench, self.suites)]
        found += [self._interpolated(alpha) for alpha in (*settings.front, 1.0)]
        for name, shares in settings.shares.items():
            for share in shares:
                condition = {"kind": "removal", "band": name, "share": share}
                inputs = is_of_inputs(name)
                found.append(self._inputs(condition) if inputs else self._outputs(condition))
        if self.update.seed in settings.oracle_seeds:
            for name in settings.oracle_bands:
                for count in settings.oracle_counts:
                    found.append(self._outputs({"kind": "oracle", "band": name, "count": count}))
            for name, fractions in settings.oracle_fractions.items():
                for fraction in fractions:
                    found.append(self._inputs({"kind": "oracle", "band": name, "fraction": fraction}))
        return found

    def _interpolated(self, alpha: float) -> dict[str, Any]:
        start = dict(self.bench.model.named_parameters())
        values = {name: torch.lerp(start[name].detach(), t, alpha) for name, t in self.update.projector.items()}
        return self._measured({"kind": "wise", "alpha": alpha}, lambda: self._with_weights(values, {"alpha": alpha}))

    def _outputs(self, condition: dict[str, Any]) -> dict[str, Any]:
        def compute() -> dict[str, Any]:
            band = self.bands.outputs(condition["band"])
            if condition["kind"] == "oracle":
                removal = remove_leading(band, condition["count"])
            else:
                removal = remove_share(band, self.drift_ND, condition["share"])
            change = part_put_back(self.base, _single(removal))
            with outputs_changed(projector_module(self.bench.parts), change):
                return self._with_weights(self.update.projector, self._facts(removal))

        return self._measured(condition, compute)

    def _facts(self, removal: Removal) -> dict[str, Any]:
        removed = removal.removed(self.drift_ND).square().sum() / self.drift_ND.square().sum()
        return {"num_directions": removal.num_directions, "removed": float(removed)}

    def _inputs(self, condition: dict[str, Any]) -> dict[str, Any]:
        def compute() -> dict[str, Any]:
            updates = self.projector.updates(self.bands, condition["band"])
            if condition["kind"] == "oracle":
                found = remove_leading_inputs(updates, self.projector.removed_by, condition["fraction"])
            else:
                found = remove_inputs(updates, self.projector.removed_by, condition["share"])
            return self._with_weights(self.projector.values(found.deltas), _input_facts(found))

        return self._measured(condition, compute)

    def _with_weights(self, values: dict[str, torch.Tensor], facts: dict[str, Any]) -> dict[str, Any]:
        with weights_replaced(self.bench.model, values):
            return facts | {"rows": self.bench.rows(self.suites)}

    def _measured(self, condition: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        reference = self.bench.settings.reference
        key = {"update": self.update.name, "tuned": self.update.hash, "bands": self.bands_hash}
        key |= {"drift_images": reference.num_drift_images}
        return self.bench.measured("ablation", condition, self.suites, compute, **key)


def base_rows(bench: Bench, suites: Sequence[AbstractSuite]) -> dict[str, Any]:
    """Scores before tuning, measured once for all updates of a task."""
    return bench.measured("base", {"kind": "wise", "alpha": 0.0}, suites, lambda: {"rows": bench.rows(suites)})


def drift_inputs(bench: Bench, task: str) -> list[torch.Tensor]:
    """What enters the projector on held-out images, half of them of the references and half of the new task."""
    reference = bench.settings.reference
    number = reference.num_drift_images
    own = new_images(bench.settings, task, number)
    new = [open_image(item.image) for item in own if item.image is not None]
    images = [*reference_images(bench, number, skip=reference.num_images), *new]
    return projector_inputs(bench.parts, bench.processor, images)


def _single(removal: Removal) -> Removal:
    """In the precision of the model, converted once."""
    return Removal(removal.band, removal.directions_DK.float(), removal.gains_K.float())


def _input_facts(found: InputRemoval) -> dict[str, Any]:
    return {"num_directions": found.num_directions, "removed": found.removed, "fraction_taken": found.fraction}
