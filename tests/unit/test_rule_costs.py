"""What a rule costs after a step: two products with its directions, in blocks that change nothing."""

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from textanchor.holds import Anchor, HoldHandle, HoldPlan, attach, linear

WIDTH, NUM_KEPT, RANK = 12, 4, 3
RULES: dict[str, dict[str, Any]] = {
    "exact outputs": {"side": "out"},
    "exact inputs": {"side": "in"},
    "exact manifold": {"side": "out", "mode": "manifold"},
    "share outputs": {"side": "out", "hold": "share"},
    "share inputs": {"side": "in", "hold": "share"},
    "share manifold": {"side": "out", "mode": "manifold", "hold": "share"},
    "share inputs, soft": {"side": "in", "hold": "share", "gains": "ridge"},
    "decay outputs": {"side": "out", "hold": "decay"},
}
PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.addmm_.default)
LINEARS = (torch.ops.mkldnn._linear_pointwise.default,)


class Products(TorchDispatchMode):
    """Counts the operations of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            left, right = args[-2:]
            self.operations += 2 * left.shape[0] * left.shape[1] * right.shape[1]
        if func in LINEARS:
            left, right = args[:2]
            self.operations += 2 * left.shape[0] * left.shape[1] * right.shape[0]
        return func(*args, **(kwargs or {}))


def held(module: nn.Module, **options: Any) -> tuple[HoldPlan, HoldHandle]:
    """A module of one linear under a rule, attached."""
    torch.manual_seed(0)
    states = torch.randn(200, WIDTH) @ torch.randn(WIDTH, WIDTH) + 1
    plan = Anchor.from_states(states).plan(module, num_kept=NUM_KEPT, **options)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return plan, attach(plan, torch.optim.AdamW(trained, weight_decay=0.0))


def moved(handle: HoldHandle) -> Tensor:
    """What the rule makes of a random change, as one vector."""
    (bound,) = handle._bound
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in bound.tensors:
            tensor.add_(torch.randn(tensor.shape, generator=generator))
        bound.apply(lr=1e-2)
    return torch.cat([tensor.detach().flatten() for tensor in bound.tensors])


def operations(handle: HoldHandle) -> int:
    with Products() as products:
        moved(handle)
    return products.operations


@pytest.mark.parametrize("rule", RULES)
def test_a_weight_is_multiplied_with_its_directions_twice(rule: str) -> None:
    plan, handle = held(nn.Linear(WIDTH, WIDTH), **RULES[rule])
    width, num_directions = plan.linears[0].subspace.directions_DK.shape
    num_rows = WIDTH * (WIDTH + 1) // width  # the bias is a row or a column
    assert operations(handle) == 4 * num_rows * width * num_directions


@pytest.mark.parametrize("hold", ["exact", "share", "decay"])
def test_a_lora_update_is_multiplied_with_its_directions_twice(hold: str) -> None:
    model: Any = get_peft_model(nn.Sequential(nn.Linear(WIDTH, WIDTH)), LoraConfig(r=RANK, target_modules=["0"]))  # pyright: ignore
    plan, handle = held(model.base_model.model[0], side="in", hold=hold)
    width, num_directions = plan.linears[0].subspace.directions_DK.shape
    to_measure = 2 * RANK**2 * (WIDTH + num_directions + width) if hold == "share" else 0
    assert operations(handle) == 4 * RANK * width * num_directions + to_measure


@pytest.mark.parametrize("rule", RULES)
def test_blocks_change_nothing(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    start = nn.Linear(WIDTH, WIDTH)
    whole = moved(held(copy.deepcopy(start), **RULES[rule])[1])
    monkeypatch.setattr(linear, "BLOCK_ELEMENTS", 5 * WIDTH)
    handle = held(copy.deepcopy(start), **RULES[rule])[1]
    assert len(list(handle._bound[0].rows(None, torch.float32))) > 2
    torch.testing.assert_close(moved(handle), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("source", ["planned", "loaded", "resumed", "start"])
@pytest.mark.parametrize("side", ["in", "out"])
def test_a_start_that_is_subtracted_lies_in_memory_as_the_weight_does(side: str, source: str, tmp_path) -> None:
    module = nn.Linear(WIDTH, WIDTH)
    plan, handle = held(module, side=side, hold="share")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    if source == "loaded":
        plan.save(tmp_path / "plan")
        handle = attach(HoldPlan.load(tmp_path / "plan", module), optimizer)
    elif source == "resumed":
        state = handle.state_dict()
        state["values"] = {name: value.contiguous() for name, value in state["values"].items()}
        handle = attach(plan, optimizer, state=state)
    elif source == "start":
        handle = attach(plan, optimizer, reference="start")
    (bound,) = handle._bound
    assert bound.reference is not None and bound.reference.is_full
    values_RD = bound.reference.values
    assert (values_RD if side == "in" else values_RD.T).is_contiguous()
    expected = torch.cat([module.weight.detach(), module.bias.detach()[:, None]], dim=1)
    assert torch.equal(values_RD, expected if side == "in" else expected.T)
