"""Bands: what is taken out has exactly the energy that was asked for, and a model is left as it was found."""

import copy
from typing import Any

import pytest
import torch
from bands import (
    Band,
    Bands,
    gains_for_share,
    outputs_changed,
    part_put_back,
    random_writing,
    remove_inputs,
    remove_leading,
    remove_leading_inputs,
    remove_share,
    weights_replaced,
)
from bands.overlap import merged_anchor, overlaps
from bands.projector import TunedProjector, projector_inputs, projector_module
from torch import Tensor, nn

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_runs import picture
from textanchor.errors import ConfigError, DataError, HoldError, ModelError
from textanchor.holds import Anchor
from textanchor.spectral import Moments
from textanchor.vlm.parts import VLMParts, find_parts

WIDTH = 12
OUTPUT_BANDS = [
    *(f"{source}_{part}" for source in ("text", "hidden:1", "visual") for part in ("top", "middle", "bottom")),
    "text_sensitivity_top",
    "reference_sensitivity_top",
    "random:0",
    "random:1",
    "identity",
]


def states(seed: int, width: int = WIDTH, rows: int = 200) -> Tensor:
    """Anisotropic states with a mean."""
    generator = torch.Generator().manual_seed(seed)
    scales_D = torch.arange(1, width + 1, dtype=torch.float64) ** -1.0
    return torch.randn(rows, width, generator=generator, dtype=torch.float64) * scales_D + 0.5


def moments_of(seed: int, width: int = WIDTH) -> Moments:
    return Anchor.from_states(states(seed, width)).moments["states"]


@pytest.fixture(scope="module")
def bands() -> Bands:
    names = ("text_embedding", "hidden:1", "visual", "text_sensitivity", "reference_sensitivity")
    return Bands(Anchor({name: moments_of(seed) for seed, name in enumerate(names)}), WIDTH)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("name", OUTPUT_BANDS)
def test_exactly_the_share_is_removed(bands: Bands, name: str, share: float) -> None:
    drift_ND = states(9) - 0.2
    removal = remove_share(bands.outputs(name), drift_ND, share)
    removed_ND = removal.removed(drift_ND)
    assert float(removed_ND.square().sum() / drift_ND.square().sum()) == pytest.approx(share, abs=1e-12)
    torch.testing.assert_close(removal.kept(drift_ND) + removed_ND, drift_ND)


@pytest.mark.parametrize("name", OUTPUT_BANDS)
def test_a_band_is_all_of_the_space_in_another_order(bands: Bands, name: str) -> None:
    directions_DK = bands.outputs(name).directions_DK
    torch.testing.assert_close(directions_DK.T @ directions_DK, torch.eye(WIDTH, dtype=torch.float64))


def test_the_order_of_a_band(bands: Bands) -> None:
    top, bottom, middle = (bands.outputs(f"text_{part}").directions_DK for part in ("top", "bottom", "middle"))
    moments = bands.anchor["text_embedding"]
    torch.testing.assert_close(top[:, 0], moments.mean_D / moments.mean_D.norm())
    energies_K = (bottom * (moments.second_DD @ bottom)).sum(0)
    assert bool((energies_K.diff() >= 0).all())
    torch.testing.assert_close(middle[:, :2], top[:, 5:7])
    assert not torch.equal(bands.outputs("random:0").directions_DK, bands.outputs("random:1").directions_DK)


def test_few_directions_are_taken_where_the_drift_lies_in_them(bands: Bands) -> None:
    band = bands.outputs("text_top")
    drift_ND = torch.randn(50, 2, dtype=torch.float64) @ band.directions_DK[:, :2].T
    removal = remove_share(band, drift_ND, 0.8)
    assert removal.num_directions <= 2
    assert remove_share(bands.outputs("text_bottom"), drift_ND, 0.8).num_directions > WIDTH - 2


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
def test_identity_is_interpolation(bands: Bands, share: float) -> None:
    drift_ND = states(9)
    kept_ND = remove_share(bands.outputs("identity"), drift_ND, share).kept(drift_ND)
    alpha = 1 - share**0.5
    torch.testing.assert_close(kept_ND, alpha * drift_ND)


def test_gains_are_full_but_for_the_last() -> None:
    gains_K = gains_for_share(torch.tensor([4.0, 3.0, 2.0, 1.0]).double(), 0.5, 10.0)
    torch.testing.assert_close(gains_K, torch.tensor([1.0, (1 / 3) ** 0.5, 0.0, 0.0]).double())
    with pytest.raises(DataError, match=r"carries 0\.100"):
        gains_for_share(torch.tensor([1.0]).double(), 0.5, 10.0)


@pytest.mark.parametrize("name", ["text", "text_upper", "top", "random", "nothing_top"])
def test_an_unknown_band_is_refused(bands: Bands, name: str) -> None:
    with pytest.raises((ConfigError, HoldError), match=r"unknown band|no moments of"):
        bands.outputs(name)


def tuned_model() -> tuple[Any, Any, VLMParts, dict[str, Tensor], list[Tensor]]:
    """A tiny model, tuned values of its projector, and what enters the projector on pictures."""
    model, processor = tiny_llava_with_processor(dtype=torch.float64)
    parts = find_parts(model)
    values = {
        name: parameter.detach() + 0.1 * torch.randn_like(parameter)
        for name, parameter in parts.parameters_of("projector").items()
    }
    return model, processor, parts, values, projector_inputs(parts, processor, [picture(seed) for seed in range(6)])


def input_bands(parts: VLMParts) -> Bands:
    names = parts.projector_linears()
    moments = {f"inputs/{name}": moments_of(i, linear.in_features) for i, (name, linear) in enumerate(names.items())}
    return Bands(Anchor(moments), parts.embedding_width())


@pytest.mark.parametrize("share", [0.25, 0.5, 0.8])
@pytest.mark.parametrize("name", ["inputs_top", "inputs_bottom", "inputs_middle", "inputs_random:0"])
def test_exactly_the_share_is_removed_at_the_inputs(name: str, share: float) -> None:
    _, _, parts, values, inputs = tuned_model()
    projector = TunedProjector.of(parts, values, inputs)
    removal = remove_inputs(projector.updates(input_bands(parts), name), projector.removed_by, share)
    assert removal.removed == pytest.approx(share, abs=1e-6)
    with weights_replaced(parts.model, projector.values(removal.deltas)):
        held = TunedProjector.of(
            parts, values, inputs
        )  # the model is the edited one now: its drift is what was removed
    assert float(held.drift().square().sum() / projector.drift().square().sum()) == pytest.approx(share, abs=1e-6)
    assert 0 < removal.fraction < 1 and set(removal.num_directions) == set(removal.deltas)


def test_inputs_that_are_held_see_no_change() -> None:
    _, _, parts, values, inputs = tuned_model()
    projector, bands = TunedProjector.of(parts, values, inputs), input_bands(parts)
    updates = projector.updates(bands, "inputs_top")
    removal = remove_leading_inputs(updates, projector.removed_by, 0.5)
    for update in updates:
        count = removal.num_directions[update.name]
        held_EK = update.band.directions_DK[:, : count - 1]
        assert float((removal.deltas[update.name] @ held_EK).abs().max()) < 1e-12
        assert float((update.delta_OE @ held_EK).abs().max()) > 1e-3
    everything = remove_leading_inputs(updates, projector.removed_by, 1.0)
    assert everything.removed == pytest.approx(1.0)
    assert remove_leading_inputs(updates, projector.removed_by, 0.0).removed == 0.0


def test_the_oracle_goes_from_the_tuned_function_to_the_base() -> None:
    _, _, parts, values, inputs = tuned_model()
    module, x = projector_module(parts), inputs[0]
    base = copy.deepcopy(module)
    band = Band("random:0", torch.linalg.qr(torch.randn(32, 32, dtype=torch.float64)).Q)
    before = module(x)
    with weights_replaced(parts.model, values):
        after = module(x)
        for count, expected in ((0, after), (32, before)):
            with outputs_changed(module, part_put_back(base, remove_leading(band, count))):
                torch.testing.assert_close(module(x), expected)
        projection_DD = band.directions_DK[:, :5] @ band.directions_DK[:, :5].T
        with outputs_changed(module, part_put_back(base, remove_leading(band, 5))):
            torch.testing.assert_close(module(x), before @ projection_DD + after - after @ projection_DD)
    assert torch.equal(module(x), before)


def test_weights_and_hooks_are_restored_bit_for_bit_even_after_an_error() -> None:
    model, _, parts, values, inputs = tuned_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    places = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    module = projector_module(parts)

    def fail() -> None:
        with weights_replaced(model, values), outputs_changed(module, lambda args, output: output + 1):
            assert not torch.equal(model.get_parameter(next(iter(values))), before[next(iter(values))])
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        fail()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.data_ptr() == places[name]
    assert not module._forward_hooks
    with pytest.raises(ModelError, match="no parameter"), weights_replaced(model, {"nothing": inputs[0]}):
        pass


def test_a_perturbation_has_its_energy_and_lies_in_its_band(bands: Bands) -> None:
    directions_DK, inputs_NH = bands.outputs("text_bottom").directions_DK[:, :3], states(5, 7)
    delta_DH = random_writing(directions_DK, inputs_NH, 0.7, seed=0)
    added_ND = inputs_NH @ delta_DH.T
    assert float(added_ND.square().sum(1).mean()) == pytest.approx(0.7)
    torch.testing.assert_close(added_ND @ directions_DK @ directions_DK.T, added_ND)
    assert not torch.equal(delta_DH, random_writing(directions_DK, inputs_NH, 0.7, seed=1))


def test_a_projector_with_more_than_linears_has_no_band_of_inputs() -> None:
    base = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)).double()
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        tuned[1].bias.add_(1)
    projector = TunedProjector(base, tuned, (torch.randn(2, 4, dtype=torch.float64),), "projector")
    with pytest.raises(ModelError, match=r"projector\.1\.bias"):
        projector.updates(Bands(Anchor({}), 4), "inputs_top")


def test_overlap_of_equal_and_of_unrelated_states() -> None:
    def fold(seed: int) -> Anchor:
        generator = torch.Generator().manual_seed(seed)
        text_ND = states(seed)
        other_ND = torch.randn(200, WIDTH, generator=generator, dtype=torch.float64)
        other_ND[:, :3] *= 6  # the directions of largest energy of both are the first axes, but for the mean
        named = {"text_embedding": text_ND, "text_sensitivity": text_ND, "reference_sensitivity": other_ND}
        moments = {name: Anchor.from_states(rows).moments["states"] for name, rows in named.items()}
        return Anchor(moments, provenance={"num_texts": 1, "num_tokens": 2, "num_images": 3})

    folds = [fold(seed) for seed in range(6)]
    assert merged_anchor(folds).provenance["num_images"] == 18
    assert merged_anchor(folds)["text_embedding"].count == 1200
    (same,) = overlaps(folds, "text_embedding", "text_sensitivity", [3])
    assert same.overlap.estimate == pytest.approx(1) and same.chance == 0.25
    (own,) = overlaps(folds, "reference_sensitivity", "reference_sensitivity", [4])
    assert 0.85 < own.energy.low < 0.9
    (other,) = overlaps(folds, "text_embedding", "reference_sensitivity", [3])
    assert other.energy.low < other.energy.estimate < other.energy.high < own.energy.estimate
