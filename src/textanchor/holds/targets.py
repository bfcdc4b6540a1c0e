"""What is trained in a part of a model: full linears, LoRA updates of linears, and everything else.

PEFT's layers are known by their attributes, so that PEFT itself is not needed.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from textanchor.errors import HoldError
from textanchor.holds.tensors import dense, is_quantized
from textanchor.vlm.hashing import bit_hashes
from textanchor.vlm.names import base_modules, is_within, joined, peft_layers
from textanchor.vlm.parts import is_of_experts

EXPERTS = "experts in one tensor, out of reach of LoRA on linears and of rules, so they stay as they are"
"""Why such a tensor is frozen, trained or not."""

NOT_TRAINED = "not trained"


@dataclass(frozen=True, kw_only=True)
class Target:
    """One linear of which something is trained."""

    name: str
    tensors: tuple[str, ...]
    """(weight) or (weight, bias), those that are trained; of a LoRA update (lora_A, lora_B)."""
    is_lora: bool
    scaling: float
    weight: Tensor
    """Weight (out, in) before training; of a LoRA update the frozen one under it, which may be quantised."""
    num_inputs: int
    num_outputs: int
    rank: int
    """Of a LoRA update; 0 of a full weight."""

    @property
    def has_bias(self) -> bool:
        """Whether a bias is trained along with the weight."""
        return not self.is_lora and len(self.tensors) > 1

    @property
    def is_quantized(self) -> bool:
        """Whether the weight before training is stored as anything but its values."""
        return is_quantized(self.weight)


def find_targets(
    model: nn.Module, parameters: Mapping[str, nn.Parameter], linears: Collection[str]
) -> tuple[dict[str, Target], dict[str, str]]:
    """Which of `linears` (base names) something is trained of, and why each other tensor of `parameters` is frozen.

    HoldError for adapter weights that are no plain LoRA update, and for weights that are sharded already.
    """
    if sharded := [name for name, parameter in parameters.items() if isinstance(parameter, DTensor)]:
        raise HoldError(f"{sharded[0]} is sharded (FSDP2); make the plan before fully_shard, and attach it after")
    modules, layers = base_modules(model), peft_layers(model)
    targets: dict[str, Target] = {}
    frozen: dict[str, str] = {}
    for name, parameter in parameters.items():
        owner = next((layer for layer in layers if is_within(name, layer)), name.rpartition(".")[0])
        if is_of_experts(parameter, modules.get(owner)):
            frozen[name] = EXPERTS
        elif not parameter.requires_grad:
            frozen[name] = NOT_TRAINED
        elif owner in targets:
            pass
        elif owner not in linears:
            frozen[name] = f"no rule for a {_kind(name, parameter, modules.get(owner))}, so it stays as it is"
        elif owner in layers:
            targets[owner] = _lora_target(owner, layers[owner], modules[owner], parameters)
        elif _is_trained(parameters.get(joined(owner, "weight"))):
            targets[owner] = _full_target(owner, parameters)
        else:
            frozen[name] = "no rule for a bias whose weight is not trained, so it stays as it is"
    return targets, frozen


def _is_trained(parameter: nn.Parameter | None) -> bool:
    return parameter is not None and parameter.requires_grad


def _kind(name: str, parameter: nn.Parameter, owner: nn.Module | None) -> str:
    return f"tensor {tuple(parameter.shape)} of {type(owner).__name__}" if owner is not None else f"bare tensor {name}"


def _full_target(owner: str, parameters: Mapping[str, nn.Parameter]) -> Target:
    weight, bias = joined(owner, "weight"), joined(owner, "bias")
    has_bias = bias in parameters and parameters[bias].requires_grad
    return Target(
        name=owner,
        tensors=(weight, bias) if has_bias else (weight,),
        is_lora=False,
        scaling=1.0,
        weight=parameters[weight].detach(),
        num_inputs=parameters[weight].shape[1],
        num_outputs=parameters[weight].shape[0],
        rank=0,
    )


def _lora_target(owner: str, layer: nn.Module, base: nn.Module, parameters: Mapping[str, nn.Parameter]) -> Target:
    trained = [name for name, p in parameters.items() if p.requires_grad and is_within(name, owner)]
    adapters = sorted(getattr(layer, "lora_A", {}))
    pairs = {adapter: tuple(joined(owner, f"lora_{side}.{adapter}.weight") for side in "AB") for adapter in adapters}
    active = [adapter for adapter, pair in pairs.items() if set(pair) & set(trained)]
    if len(active) != 1 or set(trained) != set(pairs[active[0]]):
        raise HoldError(
            f"{owner}: an adapted linear is held where exactly lora_A and lora_B of one adapter are trained, found "
            f"{', '.join(trained)}; use plain LoRA (no DoRA, no trained bias, both of A and B), or leave it unheld"
        )
    weight = getattr(base, "weight", None)
    if not isinstance(base, nn.Linear) or not isinstance(weight, Tensor):
        raise HoldError(f"{owner}: LoRA on a {type(base).__name__} cannot be held, only on a linear; leave it out")
    scaling = getattr(layer, "scaling", {}).get(active[0], 1.0)
    a_rI, b_Or = (parameters[name] for name in pairs[active[0]])
    return Target(
        name=owner,
        tensors=pairs[active[0]],
        is_lora=True,
        scaling=float(scaling),
        weight=weight.detach(),
        num_inputs=a_rI.shape[1],
        num_outputs=b_Or.shape[0],
        rank=len(a_rI),
    )


def base_hash(target: Target, parameters: Mapping[str, Tensor]) -> str:
    """Torch's hash of the bits of the weight (and trained bias) before training."""
    tensors = [target.weight] + ([parameters[target.tensors[1]].detach()] if target.has_bias else [])
    return "-".join(f"{number % 2**64:016x}" for tensor in tensors for number in bit_hashes(tensor))


def norms(target: Target, parameters: Mapping[str, Tensor]) -> tuple[float, float] | tuple[None, None]:
    """Frobenius norm of what is held (with a bias) and root mean square of the weight's entries; None if unknown."""
    weight = dense(target.weight)
    if weight is None:
        return None, None
    energy = float(torch.linalg.vector_norm(weight, dtype=torch.float64)) ** 2
    rms = (energy / weight.numel()) ** 0.5
    if target.has_bias:
        energy += float(torch.linalg.vector_norm(parameters[target.tensors[1]].detach(), dtype=torch.float64)) ** 2
    return energy**0.5, rms
