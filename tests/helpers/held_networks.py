"""One small network with a held linear, trained in one process or, by torchrun, with batch and weights split over two.

As a script (`torchrun ... held_networks.py FOLDER`) it trains every case under DDP and under FSDP2 and writes weights
and audits of rank 0 to FOLDER. No Transformers here: two processes import it in a few seconds.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from textanchor.errors import HoldError
from textanchor.holds import Anchor, FilterConfig, HoldHandle, HoldPlan, attach
from textanchor.holds.bases import Filters
from textanchor.holds.entries import HeldTensor
from textanchor.holds.linear import held_linear
from textanchor.holds.targets import find_targets
from textanchor.vlm.names import base_parameters

WIDTH_IN, WIDTH_OUT, STEPS, BATCH = 6, 7, 6, 8  # 7 rows over two processes: one has 4, the other 3

CASES: dict[str, dict[str, Any]] = {
    "inputs exact": {"mode": "inputs"},
    "outputs exact": {"mode": "outputs"},
    "manifold exact": {"mode": "manifold"},
    "coupling exact": {"mode": "coupling"},
    "inputs share": {"mode": "inputs", "hold": "share"},
    "outputs share": {"mode": "outputs", "hold": "share", "norm_cap": 0.2},
    "coupling share": {"mode": "coupling", "hold": "share"},
    "outputs decay": {"mode": "outputs", "hold": "decay"},
    "outputs removed": {"mode": "outputs", "target": "remove"},
    "lora inputs exact": {"mode": "inputs"},
    "lora outputs share": {"mode": "outputs", "hold": "share"},
    "lora coupling exact": {"mode": "coupling"},
}


class LoraLinear(nn.Module):
    """What makes a LoRA layer of PEFT one to textanchor, without PEFT."""

    def __init__(self, base: nn.Linear, rank: int = 3) -> None:
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})
        nn.init.zeros_(self.lora_B["default"].weight)
        self.scaling = {"default": 2.0}

    def forward(self, x: Tensor) -> Tensor:
        update = self.lora_B["default"](self.lora_A["default"](x))
        return self.base_layer(x) + self.scaling["default"] * update


def network(case: str) -> nn.Module:
    """Two linears with a held one between them; the last has one row, so that a process may hold none of it."""
    torch.manual_seed(1)
    held: nn.Module = nn.Linear(WIDTH_IN, WIDTH_OUT)
    model = nn.Sequential(nn.Linear(5, WIDTH_IN), nn.Tanh(), held, nn.Tanh(), nn.Linear(WIDTH_OUT, 1))
    if case.startswith("lora"):
        model[2] = LoraLinear(model[2])  # pyright: ignore[reportArgumentType]
    return model


def plan_of(case: str, model: nn.Module) -> HoldPlan:
    """The held linear, also the one-row last one by its inputs, so that every case meets an empty part."""
    torch.manual_seed(2)
    linears, rows = [], []
    named = base_parameters(model)
    for name, options in (("2", CASES[case]), ("4", {"mode": "inputs"})):
        target = find_targets(model, named, [name])[0][name]
        config = FilterConfig(num_kept=2, **options)
        states = {"in": torch.randn(90, target.num_inputs), "out": torch.randn(90, target.num_outputs)}
        filters = {side: Filters(Anchor.from_states(x), config, torch.float32) for side, x in states.items()}
        inputs = filters["in"].inputs(target, "states") if config.mode in ("inputs", "coupling") else None
        outputs = filters["out"].outputs(target, "states") if config.mode != "inputs" else None
        side = "out" if inputs is None else "in"
        subspace = outputs if inputs is None else inputs
        across = outputs if config.mode == "coupling" else None
        assert subspace is not None
        linears.append(
            held_linear(target, side, subspace, config, named, across=across, is_text_writer=False, keep_base=True)
        )
        rows += [HeldTensor(name=tensor, part="linear", rule=config.rule(), why="") for tensor in target.tensors]
    return HoldPlan(tensors=tuple(rows), linears=tuple(linears), paths={}, model=model)


def batch(rank: int = 0, num_processes: int = 1) -> tuple[Tensor, Tensor]:
    """This process's share of one batch."""
    generator = torch.Generator().manual_seed(3)
    inputs, targets = torch.randn(BATCH, 5, generator=generator), 5 * torch.randn(BATCH, 1, generator=generator)
    own = slice(rank * BATCH // num_processes, (rank + 1) * BATCH // num_processes)
    return inputs[own], targets[own]


def run(model: nn.Module, plan: HoldPlan, data: tuple[Tensor, Tensor], *, skips: bool = False) -> HoldHandle:
    """Train; with `skips`, one more step that the GradScaler skips. The holds' state is saved and loaded half-way."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0, fused=skips)
    handle = attach(plan, optimizer, model)
    for step in range(STEPS):
        optimizer.zero_grad()
        (model(data[0]) - data[1]).square().mean().backward()
        optimizer.step()
        if step == STEPS // 2:
            handle.load_state_dict(handle.state_dict())
    if skips:
        before = [values(p).clone() for p in model.parameters()]
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
        optimizer.zero_grad()
        scaler.scale(model(data[0]).sum() * torch.inf).backward()
        scaler.step(optimizer)
        scaler.update()
        assert all(torch.equal(values(p), was) for p, was in zip(model.parameters(), before, strict=True))
    return handle


def values(parameter: Tensor) -> Tensor:
    """All of a parameter, sharded or not."""
    return parameter.detach().full_tensor() if isinstance(parameter, DTensor) else parameter.detach()


def outcome(model: nn.Module, handle: HoldHandle) -> dict[str, Any]:
    """Weights and leaks, the same in every process."""
    rows = handle.audit(model, saved_dtype=torch.bfloat16).rows
    named = {name.removeprefix("module."): values(parameter) for name, parameter in model.named_parameters()}
    return {"weights": named, "leaks": [row.weight_leak for row in rows], "saved": [row.saved_leak for row in rows]}


def in_one_process(case: str) -> dict[str, Any]:
    """What training gives without torchrun."""
    model = network(case)
    return outcome(model, run(model, plan_of(case, model), batch()))


def sharded(model: nn.Module) -> nn.Module:
    """Its weights cut over all processes, in place."""
    return fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))  # pyright: ignore


def require_refusal(case: str, model: nn.Module) -> None:
    """A plan reads whole weights, so it is made before they are cut up."""
    try:
        plan_of(case, model)
    except HoldError as error:
        assert "before fully_shard" in str(error)
    else:
        raise AssertionError("a plan was made on sharded weights")


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {"ddp": DistributedDataParallel, "fsdp2": sharded}


def main(folder: Path) -> None:
    """Every case under every wrapper."""
    dist.init_process_group("gloo")
    data, results = batch(dist.get_rank(), dist.get_world_size()), {}
    for wrapper, wrap in WRAPPERS.items():
        for case in CASES:
            model = network(case)
            plan = plan_of(case, model)
            wrapped = wrap(model)
            results[wrapper, case] = outcome(wrapped, run(wrapped, plan, data, skips=case == "outputs decay"))
            if wrapper == "fsdp2":
                require_refusal(case, wrapped)
    if dist.get_rank() == 0:
        flat = {f"{wrapper}/{case}": result for (wrapper, case), result in results.items()}
        torch.save(flat, folder / "results.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
