"""Where PEFT puts adapters: on an explicit list of full module names, because a suffix such as `q_proj` also names
linears of the vision tower.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peft import LoraConfig, PeftConfig, get_peft_model
from torch import nn

from textanchor.errors import ConfigError, ModelError
from textanchor.training.config import PartConfig, PartName
from textanchor.vlm.names import peft_layers
from textanchor.vlm.parts import VLMParts


@dataclass(frozen=True)
class AdapterTargets:
    """The linears that get an adapter, part by part, in a model that nothing was added to yet."""

    parts: VLMParts
    linears: Mapping[PartName, list[str]]
    configs: Mapping[PartName, PartConfig]
    processor: Any

    @property
    def names(self) -> list[str]:
        """Full base names of all of them."""
        return [path for paths in self.linears.values() for path in paths]

    def require_ranks(self, *, in_every_linear: bool = False) -> None:
        """ConfigError where no linear of a part has the rank that its update is to have; or not every one of them."""
        choose = min if in_every_linear else max
        for part, paths in self.linears.items():
            largest = choose(min(self.parts.module(path).weight.shape) for path in paths)  # pyright: ignore
            rank = _rank(self.configs[part])
            if rank > largest:
                which = "narrowest" if in_every_linear else "widest"
                raise ConfigError(
                    f"parts.{part}.rank is {rank:,}, but the {which} linear of this part has rank {largest:,} at most; "
                    "give that or less"
                )

    def lora_config(self, **options: Any) -> LoraConfig:
        """PEFT's configuration with each part's rank and alpha, and further `options` of PEFT's.

        ConfigError where a rank is more than any linear of its part has.
        """
        self.require_ranks()
        first = self.configs[next(iter(self.linears))]
        by_path = {path: self.configs[part] for part, paths in self.linears.items() for path in paths}
        return LoraConfig(
            target_modules=self.names,
            r=_rank(first),
            lora_alpha=first.alpha,  # pyright: ignore[reportArgumentType] -- PEFT divides by it; any number will do
            rank_pattern={re.escape(path): _rank(config) for path, config in by_path.items()},
            alpha_pattern={re.escape(path): config.alpha for path, config in by_path.items()},
            **options,
        )

    def wrapped(self, config: PeftConfig) -> nn.Module:
        """The model inside PEFT; ModelError where PEFT adapted other layers than these."""
        with warnings.catch_warnings():
            # PEFT 0.21 asks Transformers 5.23 for a property that it has renamed
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            wrapped = get_peft_model(self.parts.model, config)  # pyright: ignore[reportArgumentType]
        hit, asked = set(peft_layers(wrapped)), set(self.names)
        if hit != asked:
            raise ModelError(f"PEFT put adapters on other layers than asked for: {', '.join(sorted(hit ^ asked))}")
        return wrapped


def _rank(config: PartConfig) -> int:
    assert config.rank is not None  # set by PartConfig where train is lora
    return config.rank
