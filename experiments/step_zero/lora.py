"""(c) Bands taken out of the inputs of every linear of the language model, of an update of LoRA and projector."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from ablation import base_rows
from anchors import language_bands
from bench import Bench
from torch import Tensor
from tune import Tuned

from textanchor.analysis.bands import Bands, remove_share, weights_replaced
from textanchor.evaluation.suites.text import TextSuite


class LanguageBands:
    """Bands of the language model's linears, fitted when the first condition asks for them."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    @cached_property
    def bands(self) -> Bands:
        """The bands."""
        return language_bands(self.bench, self.bench.settings.lora.num_anchor_texts)


class LoraAblation:
    """One update of projector and language model under all its conditions."""

    def __init__(self, bench: Bench, language: LanguageBands, update: Tuned) -> None:
        self.bench, self.language, self.update = bench, language, update
        settings = bench.settings.lora
        (texts,) = bench.suites(["text"], settings.num_texts)
        assert isinstance(texts, TextSuite)
        self.suites = [
            *bench.suites(bench.settings.retained, settings.num_items),
            *bench.suites([update.task], settings.num_new_items),
            replace(texts, max_tokens=settings.max_tokens),
        ]
        parameters = dict(bench.model.named_parameters())
        self.start = {name: parameters[f"{name}.weight"].detach() for name in update.lora}
        self.projector_start = {name: parameters[name].detach() for name in update.projector}

    def conditions(self) -> list[dict[str, Any]]:
        """The ends and the front of WiSE-FT on both parts, and every removal from the language model."""
        settings = self.bench.settings.lora
        found = [base_rows(self.bench, self.suites)]
        found += [self._interpolated(alpha) for alpha in (*settings.front, 1.0)]
        for name, shares in settings.shares.items():
            found += [self._removed(name, share) for share in shares]
        return found

    def _interpolated(self, alpha: float) -> dict[str, Any]:
        def compute() -> dict[str, Any]:
            deltas = {name: alpha * delta_OI for name, delta_OI in self.update.lora.items()}
            projector = {
                n: torch.lerp(start, self.update.projector[n], alpha) for n, start in self.projector_start.items()
            }
            return self._with(deltas, projector, {})

        return self._measured({"kind": "wise", "alpha": alpha}, compute)

    def _removed(self, name: str, share: float) -> dict[str, Any]:
        def compute() -> dict[str, Any]:
            deltas, counts, lost, total = {}, [], 0.0, 0.0
            for linear, delta_OI in self.update.lora.items():
                if name == "identity":
                    kept_OI = (1 - share**0.5) * delta_OI
                else:
                    removal = remove_share(self._band(name, linear), delta_OI, share)
                    counts.append(removal.num_directions)
                    kept_OI = removal.kept(delta_OI)
                deltas[linear] = kept_OI
                lost += float((delta_OI - kept_OI).square().sum())
                total += float(delta_OI.square().sum())
            facts = {"removed": lost / total, "num_directions": sum(counts) / len(counts) if counts else None}
            return self._with(deltas, self.update.projector, facts)

        return self._measured({"kind": "removal", "band": name, "share": share}, compute)

    def _band(self, name: str, linear: str):
        return self.language.bands.inputs(name, linear, with_constant=False)

    def _with(self, deltas: dict[str, Tensor], projector: dict[str, Tensor], facts: dict[str, Any]) -> dict[str, Any]:
        values = {f"{name}.weight": self.start[name] + delta_OI.float() for name, delta_OI in deltas.items()}
        with weights_replaced(self.bench.model, values | projector):
            return facts | {"rows": self.bench.rows(self.suites)}

    def _measured(self, condition: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        key = {"update": self.update.name, "tuned": self.update.hash}
        key |= {"anchor_texts": self.bench.settings.lora.num_anchor_texts}
        return self.bench.measured("lora", condition, self.suites, compute, **key)
