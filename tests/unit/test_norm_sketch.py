"""The norm of a change of which only products with random signs are known."""

import pytest
import torch

from textanchor.holds.norm_sketch import NUM_SIGNS, random_signs, saves_memory


def estimates(rank: int, draws: int = 200) -> torch.Tensor:
    """Estimated over true energy of random changes of this rank."""
    generator = torch.Generator().manual_seed(rank)
    ratios = []
    for _ in range(draws):
        left, right = (torch.randn(n, rank, generator=generator, dtype=torch.float64) for n in (40, 300))
        change_RD = left @ right.T
        products_RS = change_RD @ random_signs(300, change_RD)
        ratios.append(products_RS.square().sum() / NUM_SIGNS / change_RD.square().sum())
    return torch.stack(ratios)


@pytest.mark.parametrize("rank", [1, 3, 40])
def test_it_is_right_on_average_and_as_close_as_it_says(rank: int) -> None:
    ratios = estimates(rank)
    deviation = (2 / NUM_SIGNS / rank) ** 0.5
    assert ratios.mean().item() == pytest.approx(1, abs=4 * deviation / len(ratios) ** 0.5)
    assert ratios.std().item() < 1.3 * deviation if rank < 40 else ratios.std().item() < 0.1


def test_signs_are_those_of_every_machine_and_as_often_minus_as_plus() -> None:
    signs_DS = random_signs(1000, torch.zeros(1))
    assert signs_DS.shape == (1000, NUM_SIGNS) and set(signs_DS.unique().tolist()) == {-1.0, 1.0}
    assert signs_DS[0, :8].tolist() == [1, 1, -1, 1, 1, 1, -1, 1]
    assert torch.equal(random_signs(40, signs_DS), signs_DS[:40])
    assert signs_DS.mean(0).abs().max() < 4 / 1000**0.5
    gram_SS = signs_DS.T @ signs_DS / 1000
    assert (gram_SS - torch.eye(NUM_SIGNS)).abs().max() < 5 / 1000**0.5


def test_narrow_matrices_are_kept_whole() -> None:
    assert not saves_memory(64, torch.float32) and saves_memory(65, torch.float32)
    assert not saves_memory(32, torch.float64) and not saves_memory(128, torch.bfloat16)
