"""A probe: held-out inputs of the projector and of held linears, with what the model gave on them before training.

Shape legend: N tokens, D width.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from textanchor.errors import HoldError
from textanchor.vlm.capture import capture_inputs
from textanchor.vlm.modes import evaluating
from textanchor.vlm.names import base_modules
from textanchor.vlm.parts import VLMParts

MAX_ROWS = 1024
"""Inputs of a linear that are kept, evenly spaced over those seen."""


@dataclass(frozen=True, eq=False)
class Probe:
    """What the audit runs the tuned model on; made by `take_probe` before training, on inputs held out from it."""

    module: str | None
    """Base name of the module whose outputs are the visual tokens; None where only linears are probed."""
    calls: tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]
    """Arguments of its calls."""
    outputs_ND: Tensor | None
    """What it gave, in float64."""
    inputs: dict[str, Tensor]
    """Linear -> (N, D) inputs."""

    @torch.no_grad()
    def outputs_of(self, model: nn.Module) -> Tensor:
        """(N, D) what the module gives now, in float64 and without dropout."""
        assert self.module is not None
        module = base_modules(model)[self.module]
        with evaluating(module):
            return torch.cat([_rows(module(*args, **kwargs)) for args, kwargs in self.calls])


@torch.no_grad()
def take_probe(parts: VLMParts, run: Callable[[], object], *, linears: Iterable[str] | None = None) -> Probe:
    """Run the model (`run()`, a forward pass on held-out images) and keep what enters and leaves its projector.

    `linears`: base names whose inputs are kept too, by default those of the projector. HoldError where the projector
    does not run or gives no single tensor.
    """
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    outputs: list[Tensor] = []
    inputs: dict[str, list[Tensor]] = {}

    def gather(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls.append((_detached(args), _detached(kwargs)))
        outputs.append(_rows(output))

    names = list(parts.projector_linears()) if linears is None else list(linears)
    handle = parts.module(parts.projector_output).register_forward_hook(gather, with_kwargs=True)
    try:
        sources = capture_inputs(
            parts.model, names, run, lambda name, states_ND: inputs.setdefault(name, []).append(states_ND.cpu().clone())
        )
    finally:
        handle.remove()
    if not outputs:
        raise HoldError(f"take_probe: {parts.projector_output} did not run; give a run with images")
    rows = {name: _thinned(torch.cat(inputs[source])) for name, source in sources.items()}
    return Probe(parts.projector_output, tuple(calls), torch.cat(outputs), rows)


def _rows(output: Any) -> Tensor:
    if not isinstance(output, Tensor):
        raise HoldError(f"the audit needs a projector that gives one tensor, found {type(output).__name__}")
    return output.detach().reshape(-1, output.shape[-1]).to("cpu", torch.float64)


def _thinned(states_ND: Tensor) -> Tensor:
    return states_ND[:: -(-len(states_ND) // MAX_ROWS)]


def _detached(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _detached(entry) for key, entry in value.items()}
    return tuple(_detached(entry) for entry in value) if isinstance(value, list | tuple) else value
