"""Optimizers that torch does not have, each after a published one: what matters is when and how it moves weights."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Closure = Callable[[], Any]


class Lion(Optimizer):
    """Sign updates with momentum and decoupled decay (Chen and others, arXiv 2302.06675, algorithm 2)."""

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, 0.99)})

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> None:  # pyright: ignore
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                momentum = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                update = torch.lerp(parameter.grad, momentum, first).sign()
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"])
                momentum.lerp_(parameter.grad, 1 - second)


class ScheduleFreeSGD(Optimizer):
    """schedulefree.SGDScheduleFree 1.4.1: parameters are y in train mode and x after eval(); z is in the state."""

    def __init__(self, params: Iterable[Tensor], lr: float, beta: float = 0.9) -> None:
        super().__init__(params, {"lr": lr})
        self.beta, self.count, self.is_training = beta, 0, True

    @torch.no_grad()
    def _switch(self, *, training: bool) -> None:
        weight = 1 - self.beta if training else 1 - 1 / self.beta
        if training != self.is_training:
            for parameter, state in self.state.items():
                parameter.lerp_(state["z"], weight)
        self.is_training = training

    def train(self) -> None:
        self._switch(training=True)

    def eval(self) -> None:
        self._switch(training=False)

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> None:  # pyright: ignore
        self.count += 1
        for group in self.param_groups:
            for y in group["params"]:
                z = self.state[y].setdefault("z", y.clone())
                y.lerp_(z, 1 / self.count)
                y.add_(y.grad, alpha=group["lr"] * (self.beta * (1 - 1 / self.count) - 1))
                z.sub_(y.grad, alpha=group["lr"])


class ScheduleFreeWrapper:
    """schedulefree.ScheduleFreeWrapper 1.4.1: no torch optimizer itself, but around one."""

    def __init__(self, base: Optimizer) -> None:
        self.base = base

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return self.base.param_groups

    def eval(self) -> None: ...

    def step(self) -> None:
        self.base.step()


class InBackward(Optimizer):
    """torchtune's OptimizerInBackward: each weight moves as soon as its gradient is there, which is freed."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr})
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.register_post_accumulate_grad_hook(self._move)

    @torch.no_grad()
    def _move(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        parameter.data.sub_(parameter.grad, alpha=self.param_groups[0]["lr"])
        parameter.grad = None

    def step(self, closure: Closure | None = None) -> None:  # pyright: ignore
        return None


class Lomo(InBackward):
    """lomo_optim.Lomo 0.1.1: the same by a method that accelerate calls, and never step."""

    def fused_backward(self, loss: Tensor, lr: float) -> None:
        self.param_groups[0]["lr"] = lr
        loss.backward()


class LayerWise(Optimizer):
    """transformers' LayerWiseDummyOptimizer (galore_adamw_layerwise): one optimizer for each weight, this one idle."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__([torch.zeros(1, 1)], {"lr": lr})
        self.optimizer_of = {parameter: torch.optim.SGD([parameter], lr=lr) for parameter in params}
        for parameter in self.optimizer_of:
            parameter.register_post_accumulate_grad_hook(self._move)

    def _move(self, parameter: nn.Parameter) -> None:
        self.optimizer_of[parameter].step()
        parameter.grad = None

    def step(self, closure: Closure | None = None) -> None:  # pyright: ignore
        return None


class SAM(Optimizer):
    """davda54/sam: climbs in first_step, returns and steps by its base optimizer in second_step."""

    def __init__(self, params: Iterable[Tensor], base: Callable[..., Optimizer], rho: float = 0.05, **options: Any):
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self) -> None:
        held = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in held]).norm()
        for parameter in held:
            self.state[parameter]["old_p"] = parameter.data.clone()
            parameter.add_(parameter.grad, alpha=self.param_groups[0]["rho"] / float(norm))
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.data = self.state[parameter]["old_p"]
        self.base_optimizer.step()
        self.zero_grad()

    def step(self, closure: Closure | None = None) -> None:  # pyright: ignore
        assert closure is not None
        self.first_step()
        torch.enable_grad()(closure)()
        self.second_step()


class AloneSAM(SAM):
    """pytorch_optimizer.BSAM 4.1.0: the same methods without an optimizer inside."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        Optimizer.__init__(self, params, {"rho": 0.05, "lr": lr})


class Lookahead(Optimizer):
    """pytorch_optimizer.Lookahead 4.1.0: each second step goes half the way back to where the last such step was."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__([p for group in inner.param_groups for p in group["params"]], {})
        self.optimizer, self.count = inner, 0
        self.param_groups = inner.param_groups
        self.slow = [[p.detach().clone() for p in group["params"]] for group in self.param_groups]

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> None:  # pyright: ignore
        self.optimizer.step()
        self.count += 1
        if self.count % 2 == 0:
            for group, kept in zip(self.param_groups, self.slow, strict=True):
                for parameter, slow in zip(group["params"], kept, strict=True):
                    parameter.data.copy_(slow.lerp_(parameter, 0.5))


class Nameless(Optimizer):
    """An optimizer whose groups have no rate."""

    def __init__(self, params: Iterable[Tensor]) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> None:  # pyright: ignore
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                parameter.sub_(parameter.grad.sign(), alpha=1e-3)


class Unhooked(torch.optim.SGD):
    """As apex's and others' that put a step of their own on the object: torch's hooks do not fire."""

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, lr=lr)
        plain = torch.optim.SGD(self.param_groups[0]["params"], lr=lr)
        self.step = plain.step  # pyright: ignore[reportAttributeAccessIssue]
