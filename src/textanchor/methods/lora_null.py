"""LoRA-Null: LoRA starts in the directions of its inputs that texts do not use."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from textanchor.data.texts import read_texts
from textanchor.spectral import MomentsStream
from textanchor.training.adapters import AdapterTargets
from textanchor.training.lora_from_texts import LoraFromTexts
from textanchor.training.reference import device_of, text_inputs
from textanchor.training.updates import lora_factors
from textanchor.vlm.capture import capture_inputs
from textanchor.vlm.modes import evaluating
from textanchor.vlm.names import base_parameters, peft_layers


@dataclass(frozen=True, kw_only=True)
class LoRANull(LoraFromTexts):
    """W0 N N^T = U S V^T with N the `rank` last eigenvectors of E[x x^T] on texts; B0 = U S^1/2, A0 = S^1/2 V^T.

    B0 A0 is taken from the base layer, so the model starts as it was, and both factors are trained; with freeze_a only
    B is, so that the update stays in the span of N. Both factors are divided by the square root of LoRA's alpha / rank,
    which is ours: their code has a factor of 1. It also divides the inputs of each text by their largest value; here
    E[x x^T] is that of the inputs as they are, so each token counts by its own length. The audit counts changes from
    W0. Only for LoRA on the language model. Exported as plain weights only, because the base layers have changed.

    Source: Tang et al., "LoRA-Null", arXiv 2503.02659, from the formula (their code is for LLaMA alone).
    """

    name = "lora_null"

    freeze_a: bool = False
    """Train B alone (the paper's second version)."""

    def make_adapter(self, targets: AdapterTargets) -> nn.Module:
        """PEFT's LoRA, its factors and base layers then set."""
        targets.require_ranks(in_every_linear=True)
        seconds = self._input_moments(targets)
        model = targets.wrapped(targets.lora_config())
        weights = base_parameters(model)
        with torch.no_grad():
            for name, layer in peft_layers(model).items():
                a_RI, b_OR, scaling = lora_factors(layer)
                start_a_RI, start_b_OR = null_space_factors(weights[f"{name}.weight"], seconds[name], len(a_RI))
                a_RI.copy_(start_a_RI / scaling**0.5)
                b_OR.copy_(start_b_OR / scaling**0.5)
                weights[f"{name}.weight"].sub_(scaling * (b_OR @ a_RI))
        if self.freeze_a:
            for layer in peft_layers(model).values():
                lora_factors(layer)[0].requires_grad_(False)
        return model

    def _input_moments(self, targets: AdapterTargets) -> dict[str, Tensor]:
        """E[x x^T] (float64) of each linear's inputs on the texts; linears that share inputs share it."""
        streams: dict[str, MomentsStream] = {}
        source_of: dict[str, str] = {}
        language_model = targets.parts.module(targets.parts.language_model)

        def consume(name: str, states_ND: Tensor) -> None:
            width = states_ND.shape[1]
            streams.setdefault(name, MomentsStream(width, unit_norm=False, source=f"inputs of {name}")).add(states_ND)

        texts = read_texts(self.texts, self.num_texts)
        with evaluating(language_model), torch.no_grad():
            for inputs in text_inputs(targets.processor, texts, device_of(language_model)):
                source_of |= capture_inputs(
                    targets.parts.model,
                    targets.names,
                    lambda inputs=inputs: language_model(**inputs, use_cache=False),
                    consume,
                )
        moments = {name: stream.moments().second_DD for name, stream in streams.items()}
        return {name: moments[source] for name, source in source_of.items()}


def null_space_factors(weight_OI: Tensor, second_II: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A0 (R, I) and B0 (O, R) with B0 A0 = W N N^T, N the `rank` eigenvectors of smallest eigenvalue.

    The product has no more than `rank` non-zero singular values, so cutting to them loses nothing.
    """
    _, vectors_II = torch.linalg.eigh(second_II)  # eigenvalues ascend
    null_IR = vectors_II[:, :rank].to(weight_OI)
    u_OR, sizes_R, v_RR = torch.linalg.svd(weight_OI @ null_IR, full_matrices=False)
    root_R = sizes_R.sqrt()
    return root_R[:, None] * (v_RR @ null_IR.T), u_OR * root_R
