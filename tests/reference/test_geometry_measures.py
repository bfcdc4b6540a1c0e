"""Every measure of the geometry package against scipy, scikit-dimension, or its formula written out slowly."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import scipy.stats
import skdim
import torch

from helpers.planted_states import cone, gaussian, rotation
from textanchor import geometry as geo
from textanchor.spectral import MomentsStream


def near(value: float):
    return pytest.approx(value, rel=1e-8, abs=1e-8)


def moments_of(states: torch.Tensor, **options):
    stream = MomentsStream(states.shape[1], unit_norm=False, **options)
    stream.add(states)
    return stream.moments()


def covariance(states: torch.Tensor) -> np.ndarray:
    return np.cov(states.numpy().T)


def test_mean_cosine_is_the_average_over_all_pairs() -> None:
    x = cone().numpy()
    for function, states in ((geo.mean_cosine, x), (geo.centred_mean_cosine, x - x.mean(0))):
        cosines = [
            float(a @ b) / (np.linalg.norm(a) * np.linalg.norm(b))
            for i, a in enumerate(states)
            for j, b in enumerate(states)
            if i != j
        ]
        assert function(torch.from_numpy(x)) == near(np.mean(cosines))
    assert geo.mean_cosine(geo.StateMoments.of(cone())) == near(geo.mean_cosine(cone()))


def isoscore_of_authors(covariance_DD: np.ndarray) -> float:
    """IsoScore by the steps of its paper (2108.07344): defect, then the share of dimensions, then rescaled."""
    n = len(covariance_DD)
    variances = np.linalg.svd(covariance_DD, compute_uv=False)
    normalised = np.sqrt(n) * variances / np.sqrt(np.sum(variances**2))
    defect = np.sqrt(np.sum((normalised - np.ones(n)) ** 2)) / np.sqrt(2 * (n - np.sqrt(n)))
    share = (n - defect**2 * (n - np.sqrt(n))) ** 2 / n**2
    return float((n * share - 1) / (n - 1))


def test_isoscore_star_follows_its_paper() -> None:
    states, few = cone(), cone(5)
    cov, target = covariance(states), covariance(cone(80, seed=5))
    assert geo.isoscore_star(states) == near(isoscore_of_authors(cov))
    assert geo.isoscore_star(states, 0.3, target_DD=torch.from_numpy(target)) == near(
        isoscore_of_authors(0.7 * cov + 0.3 * target)
    )
    few_cov = covariance(few)
    shrunk = 0.8 * few_cov + 0.2 * np.trace(few_cov) / 7 * np.eye(7)
    assert geo.isoscore_star(few, 0.2) == near(isoscore_of_authors(shrunk))
    assert geo.isoscore_star(geo.spectrum(states), 0.2) == near(geo.isoscore_star(states, 0.2))


def test_ranks_energy_and_slope() -> None:
    states = cone()
    x = states.numpy()
    singular = np.linalg.svd(x - x.mean(0), compute_uv=False)
    shares = singular / singular.sum()
    for sample in (states, moments_of(states), geo.spectrum(states)):
        assert geo.effective_rank(sample) == near(np.exp(scipy.stats.entropy(shares)))
        assert geo.participation_ratio(sample) == near(skdim.id.lPCA(ver="participation_ratio").fit(x).dimension_)
        assert geo.top_energy(sample, 2) == near((singular[:2] ** 2).sum() / (singular**2).sum())
        line = scipy.stats.linregress(np.log([2, 3, 4, 5]), np.log(singular[1:5] ** 2))
        assert geo.spectral_slope(sample, first_rank=2, last_rank=5) == near(-line.slope)


def test_outlier_dimensions_are_those_of_the_mean_vector() -> None:
    states = gaussian(50, 40)
    states[:, 7] += 30
    mean = states.numpy().mean(0)
    expected = [d for d in range(40) if abs(mean[d] - mean.mean()) > 3 * mean.std()]
    assert geo.outlier_dimensions(states) == geo.outlier_dimensions(moments_of(states)) == expected == [7]


def unbiased_hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al. 2012, equation 5, on Gram matrices."""
    n, one = len(k), np.ones(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    total = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return float(np.trace(k @ m) + total - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


@pytest.mark.parametrize("num_items", [6, 60])
def test_debiased_cka_is_that_of_the_gram_matrices(num_items: int) -> None:
    first = cone(num_items)
    second = first @ gaussian(7, 4, 3) + 2 * gaussian(num_items, 4, 4)
    k, m = first.numpy() @ first.numpy().T, second.numpy() @ second.numpy().T
    expected = unbiased_hsic(k, m) / math.sqrt(unbiased_hsic(k, k) * unbiased_hsic(m, m))
    assert geo.linear_cka_debiased(first, second) == near(expected)
    folds = geo.pair_folds(first, second, torch.arange(num_items))
    assert geo.linear_cka_debiased(folds.whole()) == near(expected)
    elsewhere = geo.PairMoments.of(first, second, origin_Z=torch.linspace(-2, 2, 11, dtype=torch.float64))
    assert geo.linear_cka_debiased(elsewhere) == near(expected)


def test_procrustes_residual_is_one_minus_the_squared_nuclear_norm() -> None:
    first, second = cone(), cone(seed=3)[:, :4]
    a, b = (s.numpy() - s.numpy().mean(0) for s in (first, second))
    nuclear = np.linalg.norm(a.T @ b / (np.linalg.norm(a) * np.linalg.norm(b)), "nuc")
    assert geo.procrustes_residual(first, second) == near(1 - nuclear**2)


def test_principal_angles_are_eigenvalues_of_the_product_of_projections() -> None:
    first, second = gaussian(9, 3), gaussian(9, 2, 1)
    p, q = (b @ np.linalg.pinv(b) for b in (first.numpy(), second.numpy()))
    cosines = np.sqrt(np.sort(np.linalg.eigvals(p @ q @ p).real)[::-1][:2])
    for found in (geo.principal_angles(first, second), geo.principal_angles(second, first)):
        np.testing.assert_allclose(found, np.arccos(cosines), atol=1e-8)
        np.testing.assert_allclose(found, scipy.linalg.subspace_angles(first, second)[::-1], atol=1e-8)
    assert geo.subspace_overlap(first, second) == near(np.trace(p @ q) / 2)


def test_subspace_energy_is_the_mean_share_of_each_token() -> None:
    states, basis = cone(), gaussian(7, 3, 2)
    projection = basis.numpy() @ np.linalg.pinv(basis.numpy())
    shares = [np.sum((projection @ x) ** 2) / np.sum(x**2) for x in states.numpy()]
    assert geo.subspace_energy(states, basis) == near(np.mean(shares))
    unit = geo.StateMoments.of(states, unit_norm=True)
    assert geo.subspace_energy(unit.moments, basis) == near(np.mean(shares))


def test_principal_directions_are_eigenvectors() -> None:
    states = cone()
    _, vectors = np.linalg.eigh(covariance(states))
    found = geo.principal_directions(states, 3).numpy()
    np.testing.assert_allclose(np.abs(np.sum(found * vectors[:, ::-1][:, :3], axis=0)), 1, atol=1e-10)


def slow_neighbors(x: np.ndarray, num: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    distances = scipy.spatial.distance.cdist(x, x, metric)
    np.fill_diagonal(distances, np.inf)
    order = np.argsort(distances, axis=1)[:, :num]
    return np.take_along_axis(distances, order, axis=1), order


@pytest.mark.parametrize("num_rows", [40, 700])  # one block of rows, and more than one
def test_neighbours_are_those_of_the_full_distance_table(num_rows: int) -> None:
    states = cone(num_rows)
    distances, order = slow_neighbors(states.numpy(), 4, "euclidean")
    found = geo.nearest_neighbors(states, 4)
    np.testing.assert_allclose(found.distances_NK, distances, rtol=1e-10)
    np.testing.assert_array_equal(found.indices_NK, order)
    _, order = slow_neighbors(states.numpy(), 4, "cosine")
    np.testing.assert_array_equal(geo.nearest_neighbors(states, 4, metric="cosine").indices_NK, order)


def test_mutual_neighbours_hubness_and_twonn() -> None:
    first = cone(90)
    second = first + gaussian(90, 7, 2)
    _, a = slow_neighbors(first.numpy(), 5, "cosine")
    _, b = slow_neighbors(second.numpy(), 5, "cosine")
    shared = [len(set(i) & set(j)) / 5 for i, j in zip(a, b, strict=True)]
    assert geo.mutual_nearest_neighbors(first, second, 5) == near(np.mean(shared))
    counts = np.array([np.sum(a == item) for item in range(90)])
    assert geo.hubness(first, 5) == near(np.mean((counts - counts.mean()) ** 3) / counts.std() ** 3)
    distances, _ = slow_neighbors(first.numpy(), 2, "euclidean")
    logs = np.sort(np.log(distances[:, 1] / distances[:, 0]))
    kept = int(90 * 0.9)
    assert geo.twonn_dimension(first) == near((kept - 1) / (logs[:kept].sum() + (90 - kept) * logs[kept - 1]))
    assert geo.twonn_dimension(first) == near(skdim.id.TwoNN(method="mle").fit(first.numpy()).dimension_)


def test_gap_and_norm_ratio() -> None:
    visual, text = cone(), cone(50, seed=4) * 2
    v, t = visual.numpy(), text.numpy()
    of_visual, of_text = geo.StateMoments.of(visual), geo.StateMoments.of(text)
    gap = np.linalg.norm(v.mean(0) - t.mean(0))
    unit_gap = np.linalg.norm(
        sum(x / np.linalg.norm(x) for x in v) / len(v) - sum(x / np.linalg.norm(x) for x in t) / len(t)
    )
    ratio = np.mean([np.linalg.norm(x) for x in v]) / np.mean([np.linalg.norm(x) for x in t])
    for pair in ((visual, text), (of_visual, of_text)):
        assert geo.modality_gap(*pair, normalised=False) == near(gap)
        assert geo.modality_gap(*pair, normalised=True) == near(unit_gap)
        assert geo.norm_ratio(*pair) == near(ratio)


def slow_frechet(visual: np.ndarray, text: np.ndarray) -> float:
    cov_v, cov_t = np.cov(visual.T), np.cov(text.T)
    mixed = np.trace(cov_v + cov_t - 2 * scipy.linalg.sqrtm(cov_v @ cov_t).real)
    return float(np.sum((visual.mean(0) - text.mean(0)) ** 2) + mixed)


def test_frechet_distance_is_that_of_the_matrix_root() -> None:
    visual, text = cone(), cone(50, seed=4)
    for found in (geo.frechet(visual, text), geo.frechet(moments_of(visual), moments_of(text))):
        assert found == near(slow_frechet(visual.numpy(), text.numpy()))


def slow_mir_layer(visual: np.ndarray, text: np.ndarray) -> float:
    scale = np.mean([np.linalg.norm(t) for t in text])
    cleaned = []
    for tokens in (visual / scale, text / scale):
        norms = np.array([np.linalg.norm(x) for x in tokens])
        middle = np.sort(norms)[(len(norms) - 1) // 2]
        replacement = np.sort(tokens, axis=0)[(len(tokens) - 1) // 2]
        spread = 3 * np.std(norms, ddof=1)
        cleaned.append(
            np.array([replacement if abs(n - middle) > spread else x for n, x in zip(norms, tokens, strict=True)])
        )
    return slow_frechet(*cleaned)


def test_modality_integration_rate() -> None:
    layers = [(cone(60 + i, seed=i), cone(50, seed=i + 9)) for i in range(3)]
    layers[1][0][3] *= 40  # a massive visual token
    layers[2][1][8] *= 40
    expected = [slow_mir_layer(visual.numpy(), text.numpy()) for visual, text in layers]
    found = geo.modality_integration_rate(layers)
    np.testing.assert_allclose(found.per_layer, expected, rtol=1e-8)
    assert found.rate == near(math.log10(sum(expected)))


def test_the_fast_mode_of_the_published_mir_takes_no_root() -> None:
    visual, text = (np.cov(np.random.default_rng(seed).normal(size=(60, 5)), rowvar=False) * 3 for seed in (0, 9))
    product = visual @ text
    y, z = product, np.eye(len(product))
    for _ in range(5):  # shikiw/Modality-Integration-Rate, mir_util.py: MatrixSquareRoot
        y = 0.5 * (y + np.linalg.inv(z) @ product)
        z = 0.5 * (z + np.linalg.inv(y) @ product)
    np.testing.assert_allclose(y, product, rtol=1e-6, atol=1e-9)
    assert np.trace(scipy.linalg.sqrtm(product)).real != pytest.approx(np.trace(product), rel=0.1)


def test_nearest_text_tokens() -> None:
    visual, table = cone(300), cone(30, seed=8)
    cosines = 1 - scipy.spatial.distance.cdist(visual.numpy(), table.numpy(), "cosine")
    for score, scores in (("cosine", cosines), ("logit", visual.numpy() @ table.numpy().T)):
        found = geo.nearest_text_tokens(visual, table, 3, score=score)
        order = np.argsort(-scores, axis=1)[:, :3]
        np.testing.assert_array_equal(found.rows_NK, order)
        np.testing.assert_allclose(found.scores_NK, np.take_along_axis(scores, order, axis=1), atol=1e-10)


def test_a_rotation_changes_no_measure_that_should_not_change() -> None:
    states, turn = cone(), rotation(7)
    for measure in (geo.mean_cosine, geo.centred_mean_cosine, geo.isoscore_star, geo.effective_rank):
        assert measure(states @ turn) == near(measure(states))
    for measure in (geo.participation_ratio, geo.twonn_dimension):
        assert measure(states @ turn * 3) == near(measure(states))
