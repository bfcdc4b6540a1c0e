"""A model that is run for a measurement is in its own modes afterwards."""

import pytest
from torch import nn

from textanchor.vlm.modes import evaluating


def modes_of(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("frozen", [None, 0, 1], ids=["all train", "the first evaluates", "the second evaluates"])
def test_each_module_returns_to_its_own_mode(frozen: int | None) -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout())).train()
    if frozen is not None:
        model[frozen].eval()
    before = modes_of(model)
    with evaluating(model):
        assert not any(modes_of(model))
    assert modes_of(model) == before


def test_also_where_the_block_fails() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2)).train()
    with pytest.raises(RuntimeError, match="shapes"), evaluating(model):
        model(model[1].weight.new_zeros(1, 3))
    assert all(modes_of(model))
