"""(a) Sensitivity spectrum: random writing into bands of the projector's outputs, at equal output energy."""

from typing import Any

import torch
from anchors import reference_images
from bands import Bands, random_writing, weights_replaced
from bands.projector import projector_inputs, projector_module
from bench import Bench

from textanchor.vlm.capture import capture_inputs

UNCHANGED = {"band": "none", "energy": 0.0, "draw": 0}


def spectrum(bench: Bench, bands: Bands, bands_hash: str) -> list[dict[str, Any]]:
    """Scores of the retained tasks without and with every perturbation."""
    settings = bench.settings.spectrum
    suites = bench.suites(bench.settings.retained, settings.num_items)
    linear_name, linear = bench.parts.last_projector_linear()
    states_NH, energy = _last_linear(bench, linear_name)
    found = [bench.measured("spectrum", UNCHANGED, suites, lambda: {"rows": bench.rows(suites)})]
    for draw in range(settings.num_draws):
        for name in settings.bands:
            band = bands.outputs(name if name != "random" else f"random:{draw}")
            count = band.directions_DK.shape[1] if band.uniform else settings.num_directions
            for share in settings.energies:
                delta_DH = random_writing(band.directions_DK[:, :count], states_NH, share * energy, seed=draw)
                added_ND = states_NH @ delta_DH.T
                condition = {"band": name, "energy": share, "draw": draw}
                facts = {
                    "num_directions": count,
                    "constant_share": float(added_ND.mean(0).square().sum() / added_ND.square().sum(1).mean()),
                }

                def compute(delta_DH: torch.Tensor = delta_DH, facts: dict[str, Any] = facts) -> dict[str, Any]:
                    with weights_replaced(bench.model, {f"{linear_name}.weight": linear.weight.detach() + delta_DH}):
                        return facts | {"rows": bench.rows(suites)}

                found.append(bench.measured("spectrum", condition, suites, compute, bands=bands_hash, count=count))
    return found


def _last_linear(bench: Bench, name: str) -> tuple[torch.Tensor, float]:
    """(N, H) inputs of the projector's last linear on reference images, and the energy E||f||^2 of its outputs."""
    reference = bench.settings.reference
    images = reference_images(bench, reference.num_drift_images, skip=reference.num_images)
    states: list[torch.Tensor] = []
    module = projector_module(bench.parts)
    with torch.no_grad():
        inputs = projector_inputs(bench.parts, bench.processor, images)
        capture_inputs(
            bench.model, [name], lambda: [module(x) for x in inputs], lambda _, rows: states.append(rows.double())
        )
        outputs = [module(x) for x in inputs]
    energy = torch.cat([y.reshape(-1, y.shape[-1]) for y in outputs]).double().square().sum(1).mean()
    return torch.cat(states), float(energy)
