"""OSF: PEFT's own lets AdamW write into the frozen directions; projecting after the step does not."""

from typing import Any

import peft
import torch
from torch import nn

from textanchor.methods.osf import StepProjection, remove_frozen_directions
from textanchor.training.updates import adapter_update
from textanchor.vlm.names import peft_layers


class Net(nn.Module):
    """One wide, one square and one narrow linear, so that each way in which PEFT keeps the directions is met."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.same, self.down = nn.Linear(16, 24), nn.Linear(24, 24), nn.Linear(24, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.tanh(self.same(torch.tanh(self.up(x)))))


def leaks(project: bool, steps: int = 100) -> dict[str, tuple[float, float]]:
    """Share of each update's norm in the frozen output and input directions, after training with AdamW."""
    torch.manual_seed(0)
    net = Net()
    frozen = {name: torch.linalg.svd(linear.weight.detach().double()) for name, linear in net.named_children()}  # pyright: ignore
    model: Any = peft.get_peft_model(net, peft.OSFConfig(target_modules=list(frozen), effective_rank=0.5))  # pyright: ignore
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    callback = StepProjection()
    if project:
        callback.on_train_begin(None, None, None, model=model, optimizer=optimizer)  # pyright: ignore[reportArgumentType]
    x, y = torch.randn(64, 16), torch.randn(64, 12)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
    found = {}
    for name, layer in peft_layers(model).items():
        delta, (u, s, vh) = adapter_update(layer).detach().double(), frozen[name]
        kept = len(s) // 2
        found[name] = (float((u[:, :kept].T @ delta).norm()), float((delta @ vh[:kept].T).norm()))
        found[name] = tuple(part / float(delta.norm()) for part in found[name])
        assert delta.norm() > 0.1
    return found


def test_peft_s_own_leaks_more_than_a_tenth() -> None:
    assert all(max(sides) > 0.1 for sides in leaks(project=False).values())


def test_projected_after_the_step_it_does_not() -> None:
    for sides in leaks(project=True).values():
        assert max(sides) <= 1e-6


def test_what_is_orthogonal_already_stays() -> None:
    torch.manual_seed(0)
    model: Any = peft.get_peft_model(Net(), peft.OSFConfig(target_modules=["up"], effective_rank=4))  # pyright: ignore
    (layer,) = peft_layers(model).values()
    before = {name: p.detach().clone() for name, p in layer.named_parameters() if "osf" in name}
    assert len(before) == 3
    remove_frozen_directions(layer)
    for name, parameter in layer.named_parameters():
        if name in before:
            assert torch.allclose(parameter, before[name], atol=1e-6), name


def test_it_stops_with_the_run() -> None:
    model: Any = peft.get_peft_model(Net(), peft.OSFConfig(target_modules=["up"], effective_rank=4))  # pyright: ignore
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    callback = StepProjection()
    callback.on_train_begin(None, None, None, model=model, optimizer=optimizer)  # pyright: ignore[reportArgumentType]
    assert len(optimizer._optimizer_step_post_hooks) == 1
    callback.on_train_end(None, None, None)  # pyright: ignore[reportArgumentType]
    assert not optimizer._optimizer_step_post_hooks
