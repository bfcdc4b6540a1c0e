"""CorDA in its knowledge-preserved mode: LoRA starts in the directions that matter least on given texts."""

from dataclasses import dataclass

import torch
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from torch import nn

from textanchor.data.texts import read_texts
from textanchor.training.adapters import AdapterTargets
from textanchor.training.lora_from_texts import LoraFromTexts
from textanchor.training.reference import device_of, text_inputs


@dataclass(frozen=True, kw_only=True)
class CorDA(LoraFromTexts):
    """W0 C = U S V^T with C = E[x x^T] of a linear's inputs on texts; LoRA starts at the `rank` smallest components.

    B A = U_r S_r V_r^T C^-1, which is taken from the base layer, so the model starts as it was; then both factors are
    trained without restriction. The audit counts changes from W0. Only for LoRA on the language model: texts say
    nothing of the projector's inputs. Exported as plain weights only, because the base layers have changed.

    PEFT divides the inputs of each text by their largest value before it adds up C, and damps C: .01 of the mean of its
    diagonal is added to the diagonal, and doubled until C C^-1 is within .05 of the identity. Both are left as they
    are, so a text with large values counts less, and B A is that of the damped C.

    Source: Yang et al., arXiv 2406.05223 (KPM); the implementation is PEFT's (`preprocess_corda`).
    """

    name = "corda"

    def make_adapter(self, targets: AdapterTargets) -> nn.Module:
        """PEFT's LoRA with its CorDA start."""
        targets.require_ranks(in_every_linear=True)
        config = targets.lora_config(
            init_lora_weights="corda", corda_config=CordaConfig(corda_method="kpm", prune_temporary_fields=True)
        )
        language_model = targets.parts.module(targets.parts.language_model)
        texts = read_texts(self.texts, self.num_texts)

        def run_model() -> None:
            for inputs in text_inputs(targets.processor, texts, device_of(language_model)):
                language_model(**inputs, use_cache=False)

        with torch.no_grad():
            preprocess_corda(targets.parts.model, config, run_model=run_model)
        return targets.wrapped(config)
