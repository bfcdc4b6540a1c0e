"""Planted geometry comes out as it was planted, and what cannot be measured is refused."""

import math
import sys
from collections.abc import Callable

import pytest
import torch

from helpers.planted_states import cone, gaussian, rotation, turned_subspace
from textanchor import geometry as geo
from textanchor.errors import DataError, TextanchorError
from textanchor.spectral import MomentsStream


def test_a_rotated_scaled_shifted_copy_is_the_same() -> None:
    states = cone(80)
    copy = 3 * states @ rotation(7) + 5
    assert geo.linear_cka_debiased(states, copy) == pytest.approx(1, abs=1e-10)
    assert geo.procrustes_residual(states, copy) == pytest.approx(0, abs=1e-10)
    assert geo.mutual_nearest_neighbors(states, states @ rotation(7), 5) == 1


def test_shuffled_pairs_do_not_agree() -> None:
    states = gaussian(400, 10)
    copy = (states @ rotation(10))[torch.randperm(400, generator=torch.Generator().manual_seed(3))]
    assert abs(geo.linear_cka_debiased(states, copy)) < 0.02
    assert geo.procrustes_residual(states, copy) > 0.9
    assert geo.mutual_nearest_neighbors(states, copy, 10) == pytest.approx(10 / 399, abs=0.01)


def test_debiased_cka_of_unrelated_wide_tables_is_near_zero() -> None:
    first, second = gaussian(60, 2000), gaussian(60, 2000, 1)
    k, m = first @ first.T, second @ second.T
    centring = torch.eye(60, dtype=torch.float64) - 1 / 60
    biased = (centring @ k @ centring * m).sum() / (torch.linalg.norm(centring @ k @ centring) * torch.linalg.norm(m))
    assert float(biased) > 0.95
    assert abs(geo.linear_cka_debiased(first, second)) < 0.05


def test_an_isotropic_gaussian_is_isotropic() -> None:
    states = gaussian(20_000, 10)
    assert geo.isoscore_star(states) > 0.98
    assert geo.effective_rank(states) == pytest.approx(10, abs=0.02)
    assert geo.participation_ratio(states) == pytest.approx(10, abs=0.05)
    assert geo.top_energy(states, 3) == pytest.approx(0.3, abs=0.02)
    assert abs(geo.mean_cosine(states)) < 1e-3
    assert geo.outlier_dimensions(gaussian(20_000, 10)) == []


def test_one_dominant_direction_is_anisotropic_whatever_the_mean() -> None:
    states = gaussian(2000, 10)
    states[:, 0] *= 50
    assert geo.isoscore_star(states) < 0.01
    assert geo.participation_ratio(states) < 1.01
    assert geo.centred_mean_cosine(states + 1000) == pytest.approx(geo.centred_mean_cosine(states), abs=1e-8)
    assert geo.mean_cosine(states + 1000) > 0.9


def test_the_unit_of_the_states_does_not_decide_isoscore_star() -> None:
    states = cone()
    assert geo.isoscore_star(states * 1e-3, 0.2) == pytest.approx(geo.isoscore_star(states, 0.2), rel=1e-10)
    assert geo.isoscore_star(states * 1e-3, 0.2, target_DD=torch.eye(7)) > geo.isoscore_star(states, 0.2)


def test_a_power_law_has_its_exponent() -> None:
    eigenvalues = torch.arange(1, 21, dtype=torch.float64) ** -1.5
    assert geo.spectral_slope(geo.Spectrum(eigenvalues, 100), first_rank=2, last_rank=15) == pytest.approx(1.5)


def test_a_moved_subspace_gives_the_angle_it_was_moved_by() -> None:
    turn = rotation(12)
    angles = torch.tensor([1e-9, 0.3, 1.2], dtype=torch.float64)
    moved = turned_subspace(turn[:, :3], turn[:, 3:6], angles)
    torch.testing.assert_close(geo.principal_angles(turn[:, :3], moved), angles, rtol=1e-6, atol=1e-15)
    mixed = moved @ gaussian(3, 3, 2)  # the span counts, not its basis
    torch.testing.assert_close(geo.principal_angles(turn[:, :3], mixed), angles, rtol=1e-6, atol=1e-15)
    torch.testing.assert_close(geo.principal_angles(turn[:, :1], turn[:, 1:4]), torch.tensor([math.pi / 2]).double())


def test_overlap_of_subspaces() -> None:
    turn = rotation(40)
    assert geo.subspace_overlap(turn[:, :3], turn[:, :9]) == pytest.approx(1)
    assert geo.subspace_overlap(turn[:, :3], turn[:, 3:9]) == pytest.approx(0, abs=1e-20)
    random = [geo.subspace_overlap(turn[:, :3], geo.random_directions(40, 10, seed=seed)) for seed in range(300)]
    assert sum(random) / 300 == pytest.approx(10 / 40, abs=0.01)


def test_energy_in_a_subspace_and_its_controls() -> None:
    turn = rotation(12)
    states = gaussian(3000, 3) @ turn[:, :3].T
    assert geo.subspace_energy(states, turn[:, :3]) == pytest.approx(1)
    assert geo.subspace_energy(states, turn[:, 3:]) == pytest.approx(0, abs=1e-20)
    assert geo.subspace_energy(states, geo.principal_directions(states, 3)) == pytest.approx(1)
    random = [geo.subspace_energy(states, geo.random_directions(12, 3, seed=seed)) for seed in range(300)]
    assert sum(random) / 300 == pytest.approx(3 / 12, abs=0.01)


def test_shuffled_directions_keep_coordinates_and_break_what_ties_them() -> None:
    tied = gaussian(3000, 1) + 0.1 * gaussian(3000, 6)  # all variance along (1, ..., 1)
    tied[:, 2] *= 5
    shuffled = geo.shuffled_directions(tied, 1, seed=1).flatten()
    assert abs(float(shuffled[2])) > 0.999
    assert abs(float(geo.principal_directions(tied, 1)[2, 0])) < 0.95


def test_twonn_finds_a_plane_and_counts_copies_once() -> None:
    states = torch.rand(1500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ gaussian(2, 9)
    dimension = geo.twonn_dimension(states)
    assert dimension == pytest.approx(2, abs=0.15)
    assert geo.twonn_dimension(states.repeat(3, 1)) == pytest.approx(dimension, abs=1e-9)


def test_near_copies_keep_their_distances() -> None:
    base = gaussian(30, 8) + 1e4
    near_copy = base + 1e-6 * gaussian(30, 8, 1)
    found = geo.nearest_neighbors(torch.cat([base, near_copy]), 1).distances_NK[:30, 0]
    torch.testing.assert_close(found, torch.linalg.vector_norm(near_copy - base, dim=1), rtol=1e-4, atol=0)


def test_a_large_common_mean_changes_no_neighbour() -> None:
    states = gaussian(40, 8)
    far = geo.nearest_neighbors(states + 1e7, 5).indices_NK
    assert torch.equal(far, geo.nearest_neighbors(states, 5).indices_NK)


def test_a_hub_is_seen() -> None:
    ordinary = gaussian(300, 20)
    assert geo.hubness(ordinary, 5) > geo.hubness(gaussian(300, 3), 5)


def test_gap_frechet_and_norms_of_a_shift() -> None:
    states, shift = cone(200), torch.zeros(7, dtype=torch.float64)
    shift[2] = 3.0
    assert geo.modality_gap(states + shift, states, normalised=False) == pytest.approx(3)
    assert geo.frechet(states + shift, states) == pytest.approx(9)
    assert geo.frechet(states, states) == pytest.approx(0, abs=1e-9)
    assert geo.norm_ratio(2.5 * states, states) == pytest.approx(2.5)
    assert geo.modality_gap(2.5 * states, states, normalised=True) == pytest.approx(0, abs=1e-12)


def test_frechet_of_singular_covariances_is_a_number() -> None:
    flat = gaussian(60, 3) @ rotation(10)[:3]
    assert geo.frechet(flat, 2 * flat) == pytest.approx(
        float(flat.mean(0).square().sum() + (flat - flat.mean(0)).square().sum() / 59), rel=1e-7
    )


def test_mir_does_not_depend_on_scale_and_falls_with_integration() -> None:
    text, visual = cone(200), cone(150, seed=4) + 10
    far = geo.modality_integration_rate([(visual, text)] * 2)
    assert geo.modality_integration_rate([(visual * 9, text * 9)] * 2).rate == pytest.approx(far.rate)
    assert geo.modality_integration_rate([(visual - 10, text)] * 2).rate < far.rate
    assert far.rate == pytest.approx(math.log10(2 * far.per_layer[0]))


def test_nearest_token_of_a_row_is_that_row_whatever_its_length() -> None:
    table = gaussian(50, 8)
    found = geo.nearest_text_tokens(3 * table[[4, 17]], table, 2)
    assert found.rows_NK[:, 0].tolist() == [4, 17]
    assert found.scores_NK[:, 0].tolist() == pytest.approx([1, 1])


ONE_TABLE: list[Callable[[torch.Tensor], object]] = [
    geo.mean_cosine,
    geo.centred_mean_cosine,
    geo.isoscore_star,
    geo.spectrum,
    geo.effective_rank,
    geo.participation_ratio,
    lambda x: geo.top_energy(x, 2),
    lambda x: geo.spectral_slope(x, first_rank=1, last_rank=3),
    geo.outlier_dimensions,
    lambda x: geo.nearest_neighbors(x, 2),
    geo.twonn_dimension,
    lambda x: geo.hubness(x, 2),
    lambda x: geo.principal_directions(x, 2),
    lambda x: geo.shuffled_directions(x, 2, seed=0),
    lambda x: geo.subspace_energy(x, gaussian(7, 2)),
    lambda x: geo.linear_cka_debiased(x, cone()),
    lambda x: geo.procrustes_residual(x, cone()),
    lambda x: geo.mutual_nearest_neighbors(x, cone(), 2),
    lambda x: geo.modality_gap(cone(), x, normalised=False),
    lambda x: geo.norm_ratio(x, cone()),
    lambda x: geo.frechet(x, cone()),
    lambda x: geo.modality_integration_rate([(x, cone())]),
    lambda x: geo.nearest_text_tokens(x, cone(), 2),
    geo.StateMoments.of,
]


@pytest.mark.parametrize("measure", ONE_TABLE)
def test_wrong_shapes_and_values_that_are_not_finite_are_refused(measure: Callable) -> None:
    broken = cone()
    broken[3, 2] = math.nan
    with pytest.raises(DataError, match="1 of 60 tokens have values that are not finite"):
        measure(broken)
    broken[3, 2] = math.inf
    with pytest.raises(DataError, match="not finite"):
        measure(broken)
    with pytest.raises(DataError, match=r"expected a table of shape \(tokens, width\)"):
        measure(cone().flatten())
    with pytest.raises(DataError, match="expected a table of shape"):
        measure(cone()[:0])
    with pytest.raises(DataError, match="floating-point"):
        measure(cone().long())


@pytest.mark.parametrize(
    "measure",
    [
        geo.spectrum,
        geo.effective_rank,
        geo.participation_ratio,
        geo.isoscore_star,
        lambda x: geo.top_energy(x, 2),
        lambda x: geo.spectral_slope(x, first_rank=1, last_rank=3),
        lambda x: geo.frechet(x, cone()),
        lambda x: geo.frechet(cone(), x),
        lambda x: geo.modality_integration_rate([(x, cone())]),
    ],
)
def test_fewer_tokens_than_dimensions_are_refused(measure: Callable) -> None:
    measure(cone(8))
    with pytest.raises(DataError, match="7 tokens of width 7 cannot fill their space"):
        measure(cone(7))


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: geo.nearest_neighbors(cone(5), 5), "at least 6 states"),
        (lambda: geo.mutual_nearest_neighbors(cone(5), cone(5), 5), "at least 6 states"),
        (lambda: geo.nearest_neighbors(cone(5), 0), "number of at least 1"),
        (lambda: geo.twonn_dimension(cone(5).repeat(9, 1)), "5 among 45"),
        (lambda: geo.twonn_dimension(torch.arange(30.0)[:, None]), "equally far"),
        (lambda: geo.twonn_dimension(cone(), discard_fraction=1.0), "share below 1"),
        (lambda: geo.mean_cosine(cone(1)), "at least 2 tokens"),
        (lambda: geo.mean_cosine(torch.zeros(3, 2)), "all zeros"),
        (lambda: geo.mean_cosine(geo.StateMoments.of(cone(1))), "at least two"),
        (lambda: geo.linear_cka_debiased(cone(3), cone(3)), "at least 4"),
        (lambda: geo.linear_cka_debiased(cone(9), cone(8)), "9 rows and the second 8"),
        (lambda: geo.linear_cka_debiased(torch.ones(9, 2), cone(9)), "first table are all alike"),
        (lambda: geo.linear_cka_debiased(cone(9), torch.ones(9, 2)), "second table are all alike"),
        (
            lambda: geo.linear_cka_debiased(
                geo.PairMoments.of(torch.full((9, 2), 3.3), cone(9), origin_Z=torch.zeros(9))
            ),
            "first table are all alike",
        ),
        (lambda: geo.procrustes_residual(torch.ones(9, 2), cone(9)), "no Procrustes fit"),
        (lambda: geo.principal_angles(gaussian(4, 2), gaussian(5, 2)), "widths are 4 and 5"),
        (lambda: geo.principal_angles(gaussian(4, 2), torch.ones(4, 2)), "not independent"),
        (lambda: geo.principal_angles(gaussian(2, 4), gaussian(2, 1)), "not independent"),
        (lambda: geo.principal_directions(torch.ones(9, 3), 1), "vary in 0"),
        (lambda: geo.principal_directions(cone(5), 5), "vary in 4"),
        (lambda: geo.random_directions(3, 4, seed=0), "asked for 4"),
        (lambda: geo.subspace_energy(cone(), gaussian(6, 2)), "widths are 7 and 6"),
        (lambda: geo.subspace_energy(geo.StateMoments.of(cone()).moments, gaussian(7, 2)), "unit_norm=True"),
        (lambda: geo.spectrum(torch.ones(9, 3)), "all states are equal"),
        (lambda: geo.isoscore_star(cone(), 1.5), "lies in"),
        (lambda: geo.isoscore_star(cone(), 0.5, target_DD=torch.eye(3)), "7 x 7"),
        (lambda: geo.isoscore_star(geo.spectrum(cone()), 0.5, target_DD=torch.eye(7)), "no directions"),
        (lambda: geo.isoscore_star(cone(9, 1)), "at least 2 dimensions"),
        (lambda: geo.top_energy(cone(), 8), "between 1 and 7"),
        (lambda: geo.spectral_slope(cone(), first_rank=3, last_rank=3), "between 4 and 7"),
        (lambda: geo.spectral_slope(gaussian(9, 2) @ gaussian(2, 4), first_rank=1, last_rank=4), "is zero"),
        (lambda: geo.modality_gap(cone(), cone(9, 3), normalised=True), "widths are 7 and 3"),
        (
            lambda: geo.modality_gap(
                geo.StateMoments.of(cone(), unit_norm=True), geo.StateMoments.of(cone()), normalised=False
            ),
            "unit_norm=False",
        ),
        (lambda: geo.norm_ratio(cone(), torch.zeros(4, 7)), "all text states are zero"),
        (lambda: geo.frechet(cone(), cone(9, 3)), "widths are 7 and 3"),
        (lambda: geo.modality_integration_rate([(cone(), torch.zeros(9, 7))]), "all text states are zero"),
        (lambda: geo.modality_integration_rate([]), "at least one layer"),
        (lambda: geo.nearest_text_tokens(cone(), cone(3), 4), "1 to 3"),
        (lambda: geo.nearest_text_tokens(cone(), cone(9, 3), 4), "widths are 7 and 3"),
        (
            lambda: geo.PairMoments.of(cone(), cone()).merged(geo.PairMoments.of(cone(seed=1), cone())),
            "the same origin",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(measure: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        measure()


def test_without_scikit_dimension_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skdim.id", None)
    with pytest.raises(TextanchorError, match=r"textanchor\[geometry\]"):
        geo.twonn_dimension(cone())


def test_a_failed_decomposition_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise torch.linalg.LinAlgError("did not converge")

    for name in ("eigh", "eigvalsh", "svdvals"):
        monkeypatch.setattr(torch.linalg, name, fail)
    for measure in (geo.spectrum, lambda x: geo.principal_directions(x, 2), lambda x: geo.frechet(x, x)):
        with pytest.raises(DataError, match="failed"):
            measure(cone())


def test_broken_moments_raise() -> None:
    stream = MomentsStream(7)
    stream.add(cone())
    moments = stream.moments()
    moments.second_EE[0, 0] = math.nan
    for measure in (geo.spectrum, lambda x: geo.principal_directions(x, 2), lambda x: geo.frechet(x, x)):
        with pytest.raises(DataError):
            measure(moments)
