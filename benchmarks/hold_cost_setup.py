"""Processor seconds until training can begin, beside those of other methods; a part of `hold_cost.py`."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

import textanchor as ta
from textanchor.data.texts import load_texts
from textanchor.training.adapters import AdapterTargets
from textanchor.training.config import PartConfig
from textanchor.vlm.parts import VLMParts, find_parts

NUM_TEXTS, NUM_LAYERS = 16, 3


def texts() -> list[str]:
    """The first of the shipped texts."""
    return [row.text for row in load_texts("train")[:NUM_TEXTS]]


def setup_costs() -> Iterator[dict[str, Any]]:
    """A row for each method, on the linears of the first layers and the same texts."""
    from textanchor.training.method import load_method

    model, processor = ta.load_vlm("embedded")
    linears = list(find_parts(model).text_linears())[: 7 * NUM_LAYERS]

    def ours(parts: VLMParts) -> None:
        anchor = ta.fit_anchor(parts.model, processor, texts(), parts=parts, linears=linears)
        for name in linears:
            ta.Anchor({"states": anchor[f"inputs/{name}"]}).plan(
                parts.module(name), side="in", kept_fraction=0.3, hold="exact"
            )

    def adapter(options: dict[str, Any], config: PartConfig) -> Callable[[VLMParts], None]:
        def make(parts: VLMParts) -> None:
            targets = AdapterTargets(parts, {"language_model": linears}, {"language_model": config}, processor)
            load_method(options).make_adapter(targets)

        return make

    def fisher(kind: str) -> Callable[[VLMParts], None]:
        from textanchor.training import fisher as fisher_module
        from textanchor.training.reference import text_batches
        from textanchor.training.trainer import label_logits

        def gather(parts: VLMParts) -> None:
            generator = torch.Generator().manual_seed(0)
            parts.model.requires_grad_(False)
            modules: dict[str, Any] = {name: parts.module(name) for name in linears}

            def log_likelihood(batch: Any) -> tuple[torch.Tensor, int]:
                inputs = {name: value for name, value in batch.items() if name != "labels"}
                logits_KV = label_logits(parts.model, inputs, batch["labels"])
                return fisher_module.drawn_log_likelihood(logits_KV, generator), len(logits_KV)

            batches = text_batches(processor, texts(), torch.device("cpu"))
            if kind == "kfac":
                fisher_module.kronecker_fisher(modules, batches, log_likelihood)
            else:
                weights = {name: module.weight for name, module in modules.items()}
                fisher_module.diagonal_fisher(weights, batches, log_likelihood)

        return gather

    kinds: dict[str, Callable[[VLMParts], None]] = {
        "textanchor: anchor and plan, inputs": ours,
        "EWC: diagonal Fisher": fisher("diagonal"),
        "EWC: K-FAC": fisher("kfac"),
        "OSF: PEFT's init": adapter({"name": "osf"}, PartConfig(train="full")),
        "CorDA: PEFT's preprocessing": adapter({"name": "corda", "num_texts": NUM_TEXTS}, PartConfig(train="lora")),
        "LoRA-Null": adapter({"name": "lora_null", "num_texts": NUM_TEXTS}, PartConfig(train="lora")),
    }
    for name, setup in kinds.items():
        parts = find_parts(ta.load_vlm("embedded")[0])  # adapters change the model
        start = time.process_time()
        setup(parts)
        yield {"method": name, "seconds": time.process_time() - start, "layers": NUM_LAYERS, "num_texts": NUM_TEXTS}
