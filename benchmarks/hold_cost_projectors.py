"""What a hold on the last linear costs on projectors of the shapes of 7B models; a part of `hold_cost.py`.

Alone, and with one decoder layer of the model's shape behind the projector (the first linear and the layer are frozen,
all weights random), through which loss and gradients pass. These models have 32 and 28 such layers, and a forward and
backward pass through all of them would take about as many times as long, while the rule costs the same: the ratios are
upper bounds.

Shape legend: N visual tokens, D width of a state.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, Qwen2Config, Qwen2Model

import textanchor as ta
from textanchor.holds import HoldHandle

SHAPES = {"LLaVA-1.5-7B": (1024, 4096, 4096), "Qwen2.5-VL-7B": (5120, 5120, 3584)}
NUM_IMAGE_TOKENS = 1152
ROUNDS = {"projector alone": 4, "projector and one decoder layer": 4}
HOLDS = ("exact", "share", "decay")
WITHOUT = "without"


def seconds_of(work: Callable[[], Any]) -> float:
    """Processor seconds of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def decoder_layer(model: str) -> nn.Module:
    """The first layer of a decoder of the model's shape."""
    shape: dict[str, Any] = {"num_hidden_layers": 1, "vocab_size": 8, "use_cache": False}
    if model == "LLaVA-1.5-7B":
        shape |= {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
        return LlamaModel(LlamaConfig(**shape))
    shape |= {"hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28, "num_key_value_heads": 4}
    return Qwen2Model(Qwen2Config(**shape))


def rounds(
    passes: Callable[[], Any], optimizer: Any, handles: dict[str, HoldHandle], num_rounds: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and times of each hold: rounds of one forward and backward pass, then one step under each and under none.

    Which of them comes first changes from round to round; the first round does not count. Every step begins at the same
    moved weights, so that each rule has its work to do whatever the one before it took away.
    """
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moved = [parameter.detach() + 1e-3 * torch.randn_like(parameter) for parameter in trained]
    in_passes: list[float] = []
    in_step: dict[str, list[float]] = {name: [] for name in (WITHOUT, *handles)}
    names = list(in_step)
    for i in range(num_rounds + 1):
        optimizer.zero_grad()
        in_passes.append(seconds_of(passes))
        for name in (*names[i % len(names) :], *names[: i % len(names)]):
            for parameter, values in zip(trained, moved, strict=True):
                parameter.detach().copy_(values)
            if name in handles:
                handles[name].listen(optimizer)
            in_step[name].append(seconds_of(optimizer.step))
            if name in handles:
                handles[name].remove()
    both = statistics.median(in_passes[1:])
    without = both + statistics.median(in_step[WITHOUT][1:])
    for name in handles:
        step = both + statistics.median(in_step[name][1:])
        times = {"seconds_with": step, "seconds_without": without, "ratio": step / without}
        yield name, times | {"seconds_of_rule": step - without, "rounds": {"passes": in_passes, **in_step}}


def projector_costs() -> Iterator[dict[str, Any]]:
    """A row for each shape, with and without a decoder layer behind it, and hold."""
    for model, (width_in, width, width_out) in SHAPES.items():
        torch.manual_seed(0)
        projector = nn.Sequential(nn.Linear(width_in, width), nn.GELU(), nn.Linear(width, width_out))
        projector[0].requires_grad_(False)
        states_ND, target_ND = torch.randn(NUM_IMAGE_TOKENS, width_in), torch.randn(NUM_IMAGE_TOKENS, width_out)
        anchor = ta.Anchor.from_states(torch.randn(2 * width_out, width_out))
        plans = {hold: anchor.plan(projector[2], side="out", num_kept=64, hold=hold) for hold in HOLDS}
        decoder = decoder_layer(model).requires_grad_(False)

        def alone(x_ND: Tensor) -> Tensor:
            return x_ND

        def behind(x_ND: Tensor, decoder: Any = decoder) -> Tensor:
            return decoder(inputs_embeds=x_ND[None]).last_hidden_state[0]

        for (setting, num_rounds), follow in zip(ROUNDS.items(), (alone, behind), strict=True):
            optimizer = torch.optim.AdamW(projector[2].parameters(), lr=1e-4, weight_decay=0.0)
            handles = {hold: ta.attach(plan, optimizer) for hold, plan in plans.items()}
            for handle in handles.values():
                handle.remove()

            def passes(
                projector: Any = projector, follow: Any = follow, x: Any = states_ND, y: Any = target_ND
            ) -> None:
                (follow(projector(x)) - y).square().mean().backward()

            row = {"model": model, "setting": setting, "target": 1.02, "num_tokens": NUM_IMAGE_TOKENS}
            for hold, times in rounds(passes, optimizer, handles, num_rounds):
                yield row | {"hold": hold} | times
