"""The reference column: the same texts through a language model of the same shape with random weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from textanchor.analysis.passes import Passes, run_texts
from textanchor.analysis.states import Streams, place_of
from textanchor.analysis.tables import Numbers, place_numbers
from textanchor.evaluation.suite import measuring


def random_weights_numbers(
    passes: Passes, texts: Sequence[str], depths: Sequence[int], *, max_tokens: int, seed: int
) -> list[Numbers]:
    """Measures of text positions at some depths of an untrained language model, as its class initialises it.

    What it shows is due to the architecture and to how often tokens occur, not to what was learned.
    """
    language_model: Any = passes.parts.module(passes.parts.language_model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained: nn.Module = type(language_model)(language_model.config)
    untrained = untrained.to(passes.device).eval()
    prefix = f"{passes.parts.language_model}."
    layers = [name.removeprefix(prefix) for name in passes.layers]
    streams = Streams(len(texts), sampled=frozenset(), seed=seed)
    with measuring(untrained):
        run_texts(
            untrained,
            untrained,
            layers,
            passes.processor,
            texts,
            lambda depth, index, x_ND, ids_N: streams.add(place_of("text", depth), index, x_ND, ids_N),
            max_tokens,
            depths,
        )
    places = streams.states()
    return [
        {"depth": depth, "measures": place_numbers(places[place_of("text", depth)], intervals=False)[0]["measures"]}
        for depth in depths
    ]
