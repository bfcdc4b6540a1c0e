"""(c) Bands taken out of the inputs of every linear of the language model, of an update of LoRA and projector."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Any

from ablation import base_rows
from anchors import language_bands
from bands import Bands, remove_share, weights_replaced
from bands.directions import IDENTITY
from bench import Bench
from torch import Tensor
from tune import Tuned

from textanchor.evaluation.suites.closed import ClosedSuite, guess_nats
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
        (new,) = bench.suites([update.task], settings.num_new_items)
        self.guess_nats = guess_nats(new.items if isinstance(new, ClosedSuite) else ())
        assert isinstance(texts, TextSuite)
        self.suites = [
            *bench.suites(bench.settings.retained, settings.num_items),
            new,
            replace(texts, max_tokens=settings.max_tokens),
        ]
        parameters = dict(bench.model.named_parameters())
        self.start = {name: parameters[f"{name}.weight"].detach() for name in update.lora}

    def conditions(self) -> list[dict[str, Any]]:
        """Before tuning, the front of WiSE-FT on the language model under the tuned projector, and every removal."""
        settings = self.bench.settings.lora
        found = [base_rows(self.bench, self.suites) | {"kind": "base"}]
        found += [self._interpolated(alpha) for alpha in (0.0, *settings.front, 1.0)]
        for name, shares in settings.shares.items():
            found += [self._removed(name, share) for share in shares]
        return found

    def _interpolated(self, alpha: float) -> dict[str, Any]:
        def compute() -> dict[str, Any]:
            return self._with({name: alpha * update.rows_RI for name, update in self.update.lora.items()}, {})

        return self._measured({"kind": "wise", "alpha": alpha}, compute)

    def _removed(self, name: str, share: float) -> dict[str, Any]:
        def compute() -> dict[str, Any]:
            rows, counts, lost, total = {}, [], 0.0, 0.0
            for linear, update in self.update.lora.items():
                if name == IDENTITY:
                    kept_RI = (1 - share**0.5) * update.rows_RI
                else:
                    band = self.language.bands.inputs(name, linear, with_constant=False)
                    removal = remove_share(band, update.rows_RI, share)
                    counts.append(removal.num_directions)
                    kept_RI = removal.kept(update.rows_RI)
                rows[linear] = kept_RI
                lost += float((update.rows_RI - kept_RI).square().sum())
                total += float(update.rows_RI.square().sum())
            return self._with(
                rows, {"removed": lost / total, "num_directions": sum(counts) / len(counts) if counts else None}
            )

        return self._measured({"kind": "removal", "band": name, "share": share}, compute)

    def _with(self, rows: dict[str, Tensor], facts: dict[str, Any]) -> dict[str, Any]:
        values = {
            f"{name}.weight": self.start[name] + self.update.lora[name].delta(rows_RI) for name, rows_RI in rows.items()
        }
        with weights_replaced(self.bench.model, values | self.update.projector):
            return facts | {"rows": self.bench.rows(self.suites)}

    def _measured(self, condition: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        key = {"update": self.update.name, "tuned": self.update.hash}
        key |= {"anchor_texts": self.bench.settings.lora.num_anchor_texts}
        return self.bench.measured("lora", condition, self.suites, compute, **key)
