"""Claims say what planted states say: holds, does not hold, or undecided, and never a verdict out of nothing."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from textanchor.analysis.claims import c1, c2
from textanchor.analysis.claims.claim import ClaimResult, judge, overall
from textanchor.analysis.claims.margins import MARGINS
from textanchor.analysis.measure import verdicts_of
from textanchor.analysis.predictability import coverage_numbers, prediction_numbers
from textanchor.analysis.states import PlaceStream, Sample
from textanchor.analysis.subspaces import subspace_numbers
from textanchor.analysis.tables import gaussian_participation, pair_numbers, place_numbers
from textanchor.errors import DataError
from textanchor.geometry import random_directions

NUM_GROUPS, PER_GROUP, WIDTH = 40, 50, 20


def gaussian(seed: int, *, scales: Tensor | None = None, num: int = NUM_GROUPS * PER_GROUP) -> Tensor:
    x_ND = torch.randn(num, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x_ND if scales is None else x_ND * scales


def sample(states_ND: Tensor) -> Sample:
    group_N = torch.arange(len(states_ND)) // (len(states_ND) // NUM_GROUPS)
    return Sample(states_ND, group_N, torch.zeros_like(group_N))


def place(states_ND: Tensor) -> dict[str, Any]:
    stream = PlaceStream("planted", keep=PER_GROUP, seed=0)
    for group, own_ND in enumerate(states_ND.split(PER_GROUP)):
        stream.add(group, own_ND)
    return place_numbers(stream.states(), intervals=True)[0]


@pytest.mark.parametrize(
    ("interval", "direction", "verdict"),
    [
        ((1.6, 1.9), "above", "holds"),
        ((1.4, 1.9), "above", "undecided"),
        ((1.1, 1.5), "above", "does not hold"),
        ((0.1, 0.4), "below", "holds"),
        ((0.4, 0.6), "below", "undecided"),
        ((0.5, 0.6), "below", "does not hold"),
        ((1.2, 1.3), "below", "does not hold"),
    ],
)
def test_a_verdict_needs_the_whole_interval(interval: tuple[float, float], direction: Any, verdict: str) -> None:
    assert judge(interval, null=1.0, margin=0.5, direction=direction) == verdict


@pytest.mark.parametrize("interval", [(2.0, 1.0), (math.nan, 3.0), (2.0, math.nan)])
def test_a_failed_interval_has_no_verdict(interval: tuple[float, float]) -> None:
    with pytest.raises(DataError, match="needs an interval"):
        judge(interval, null=0.0, margin=0.1, direction="above")


def test_isotropic_gaussian_is_not_anisotropic() -> None:
    claim = c1.anisotropy("depth 0", place(gaussian(0)))
    assert claim.verdict == "does not hold"
    assert claim.value == pytest.approx(1.0, abs=0.05)


def test_unequal_norms_alone_are_not_anisotropy() -> None:
    norms_N1 = torch.exp(torch.linspace(-1, 1, NUM_GROUPS * PER_GROUP, dtype=torch.float64))[:, None]
    claim = c1.anisotropy("depth 0", place(gaussian(0) * norms_N1))
    assert claim.verdict == "does not hold"


def test_the_norm_matched_null_knows_that_few_tokens_carry_the_variance() -> None:
    norms_N1 = torch.ones(2000, 1, dtype=torch.float64)
    norms_N1[:5] = 1000.0
    few = sample(gaussian(0) * norms_N1)
    assert gaussian_participation(few, norm_matched=True) < 5 / WIDTH
    assert gaussian_participation(few, norm_matched=False) > 0.9


def test_few_strong_directions_are_anisotropy() -> None:
    scales = torch.ones(WIDTH, dtype=torch.float64)
    scales[:2] = 6.0
    claim = c1.anisotropy("depth 0", place(gaussian(0, scales=scales)))
    energy = scales.square()
    expected = float(energy.sum().square() / energy.square().sum()) / WIDTH
    assert claim.verdict == "holds"
    assert claim.value == pytest.approx(expected, rel=0.1)


def test_the_wider_space_dominates_and_not_the_reverse() -> None:
    narrow = torch.full((WIDTH,), 0.05, dtype=torch.float64)
    narrow[0] = 1.0  # all of it in one of the two leading directions of the other
    wide = torch.full((WIDTH,), 0.9, dtype=torch.float64)
    wide[0] = 2.5
    visual, text = sample(gaussian(1, scales=narrow)), sample(gaussian(2, scales=wide))
    numbers = subspace_numbers(visual, text, seed=0)
    assert c1.dominance("depth 0", numbers).verdict == "holds"
    assert numbers["visual_by_text"]["estimate"] > 0.7 and numbers["chance"] == 2 / WIDTH
    assert c1.dominance("depth 0", subspace_numbers(text, visual, seed=0)).verdict == "does not hold"


def test_one_source_has_no_dominance() -> None:
    numbers = subspace_numbers(sample(gaussian(1)), sample(gaussian(2)), seed=0)
    assert c1.dominance("depth 0", numbers).verdict == "does not hold"
    for name in ("visual_by_text", "text_by_visual", "visual_by_random", "visual_by_shuffled_text"):
        value = numbers[name]["estimate"] if isinstance(numbers[name], dict) else numbers[name]
        assert value == pytest.approx(numbers["chance"], abs=0.04)


def test_a_gap_between_the_means_explains_nothing() -> None:
    offset_D = 4 * torch.nn.functional.one_hot(torch.tensor(WIDTH - 1), WIDTH).double()
    numbers = subspace_numbers(sample(gaussian(1) + offset_D), sample(gaussian(2) - offset_D), seed=0)
    for name in ("visual_by_text", "text_by_visual"):
        assert numbers[name]["estimate"] == pytest.approx(numbers["chance"], abs=0.05)
    assert c1.dominance("depth 0", numbers).verdict == "does not hold"


def test_a_moved_subspace_shows_its_angle() -> None:
    directions_DK = random_directions(WIDTH, 3, seed=0)
    angle = math.radians(35)
    moved_DK = torch.stack(
        [directions_DK[:, 0] * math.cos(angle) + directions_DK[:, 2] * math.sin(angle), directions_DK[:, 1]], dim=1
    )
    coordinates_N2 = gaussian(3)[:, :2]
    noise_ND = 1e-4 * gaussian(4)
    first, second = (sample(coordinates_N2 @ basis_DK.T + noise_ND) for basis_DK in (directions_DK[:, :2], moved_DK))
    assert subspace_numbers(first, second, seed=0)["angles"] == pytest.approx([0, 35], abs=0.2)


def test_coverage_is_larger_of_the_part_by_the_whole() -> None:
    whole = gaussian(5)
    part = whole[gaussian(6)[:, 0] > 0] * 1.0
    part = part[(part[:, :3] > 0).all(dim=1)]
    visual = Sample(part, torch.arange(len(part)) % NUM_GROUPS, torch.zeros(len(part)))
    numbers = coverage_numbers(visual, sample(gaussian(7)), seed=0)
    assert c2.coverage("depth 0", numbers).verdict == "holds"
    apart = coverage_numbers(sample(gaussian(8) + 50), sample(gaussian(7) - 50), seed=0)
    assert apart["visual_in_text"]["estimate"] == 0
    assert c2.coverage("depth 0", apart).verdict == "does not hold"


def pairs(*, shuffled: bool) -> tuple[Tensor, Tensor]:
    """Images that are a projection of their captions onto half of the directions."""
    text_PD = gaussian(9, num=400)
    visual_PD = text_PD @ random_directions(WIDTH, WIDTH // 2, seed=1)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(2)) if shuffled else torch.arange(400)
    return visual_PD[order], text_PD


def test_a_projection_is_predicted_and_predicts_half() -> None:
    numbers = prediction_numbers(*pairs(shuffled=False), seed=0)
    assert numbers["visual_from_text"]["estimate"] == pytest.approx(1.0, abs=1e-3)
    assert numbers["text_from_visual"]["estimate"] == pytest.approx(0.5, abs=0.05)
    assert c2.predictability("depth 0", numbers).verdict == "holds"


def test_shuffled_pairs_predict_nothing() -> None:
    numbers = prediction_numbers(*pairs(shuffled=True), seed=0)
    assert max(numbers[name]["high"] for name in ("visual_from_text", "text_from_visual")) < 0.02
    assert c2.predictability("depth 0", numbers).verdict == "does not hold"


def row_of_pairs(visual_PD: Tensor, text_PD: Tensor) -> dict[str, Any]:
    from textanchor.analysis.gather import Pairs

    return pair_numbers(Pairs(tuple(map(str, range(len(text_PD)))), {0: visual_PD}, {0: text_PD}), seed=0)[0]


def test_pairs_agree_and_shuffled_pairs_do_not() -> None:
    assert c2.agreement("depth 0", row_of_pairs(*pairs(shuffled=False))).verdict == "holds"
    row = row_of_pairs(*pairs(shuffled=True))
    assert c2.agreement("depth 0", row).verdict == "does not hold"
    assert row["cka"]["low"] < 0.02 and abs(row["neighbors_beyond_chance"]["estimate"]) < 0.02


def test_a_rotated_copy_is_the_same() -> None:
    text_PD = gaussian(10, num=200)
    row = row_of_pairs(text_PD @ random_directions(WIDTH, WIDTH, seed=3), text_PD)
    assert row["cka"]["estimate"] == pytest.approx(1.0, abs=1e-9)
    assert row["neighbors_beyond_chance"]["estimate"] == pytest.approx(1 - 10 / 199, abs=1e-9)


def result(verdict: Any) -> ClaimResult:
    return ClaimResult(
        claim="C1", name="n", statement="s", place=f"depth of {verdict}", value=0.0, null=0.0, margin=0.1,
        direction="above", interval=(0.0, 0.0), interval_kind="k", verdict=verdict, caveat="c",
    )  # fmt: skip


def test_depths_that_disagree_leave_a_claim_undecided() -> None:
    assert overall([result("holds")] * 3) == "holds"
    assert overall([result("holds"), result("does not hold")]) == "undecided"
    (summed,) = verdicts_of([result("holds"), result("does not hold")])
    assert (summed["verdict"], summed["holds_at"]) == ("undecided", ["depth of holds"])
    with pytest.raises(DataError, match="no result"):
        overall([])


def test_margins_are_those_that_were_declared() -> None:
    declared = {
        "anisotropy": 0.5, "dominance": 0.1, "rigidity": math.log(2), "coverage": 0.1, "predictability": 0.05,
        "alignment": 0.05, "movement": math.log(1.5), "explanation": 0.3,
    }  # fmt: skip
    assert vars(MARGINS) == pytest.approx(declared)


@pytest.mark.parametrize(
    ("states_ND", "fragment"),
    [
        (torch.zeros(400, WIDTH), "no token reached"),
        (torch.full((400, WIDTH), float("nan")), "400 of 400 states are not finite|50 of 50 states are not finite"),
        (torch.randn(10, WIDTH), "cannot fill their space"),
    ],
)
def test_states_that_cannot_be_measured_are_refused(states_ND: Tensor, fragment: str) -> None:
    with pytest.raises(DataError, match=fragment):
        place(states_ND.double())


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(DataError, match="at least 50 images with captions, found 30"):
        prediction_numbers(gaussian(0, num=30), gaussian(1, num=30), seed=0)
