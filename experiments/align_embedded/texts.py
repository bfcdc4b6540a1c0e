"""Keeping the text of the language model: KL to the original on text that the original itself wrote."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from textanchor.data.texts import load_texts


class TextKeeper:
    """Texts and the original model's last hidden states on them, from which its distributions follow exactly."""

    def __init__(self, vlm, tokenizer, *, num_tokens: int, positions_per_text: int = 48):
        self.vlm, self.positions_per_text = vlm, positions_per_text
        self.train = [self._ids(tokenizer, row, i, num_tokens) for i, row in enumerate(load_texts("train"))]
        self.test = [self._ids(tokenizer, row, i, num_tokens) for i, row in enumerate(load_texts("test"))]
        self.original = self._hidden_states(self.train + self.test)

    @staticmethod
    def _ids(tokenizer, row, number: int, num_tokens: int) -> Tensor:
        """Every second text stands alone, the others inside the chat they were written in."""
        chat = f"<|im_start|>user\n{row.prompt}<|im_end|>\n<|im_start|>assistant\n{row.text}<|im_end|>"
        text = row.text if number % 2 else chat
        return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"][:num_tokens])

    def _run(self, batch: list[Tensor]) -> Tensor:
        """(B, L, D) last hidden states; causal attention makes right padding harmless."""
        ids_BL = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
        with torch.autocast("cpu", torch.bfloat16):
            return self.vlm.model.language_model(input_ids=ids_BL, use_cache=False).last_hidden_state

    @torch.no_grad()
    def _hidden_states(self, texts: list[Tensor], *, batch_size: int = 20) -> dict[int, Tensor]:
        """(L, D) states of each text, by the identity of its ids."""
        states = {}
        for start in range(0, len(texts), batch_size):
            batch = texts[start : start + batch_size]
            for ids, state_LD in zip(batch, self._run(batch), strict=True):
                states[id(ids)] = state_LD[: len(ids)].bfloat16().clone()
        return states

    def kl(self, rng: np.random.Generator, *, num_texts: int) -> Tensor:
        """Mean KL(original || tuned) in nats over random positions of random training texts."""
        chosen = [self.train[int(i)] for i in rng.permutation(len(self.train))[:num_texts]]
        tuned_BLD = self._run(chosen)
        positions = [torch.tensor(rng.permutation(len(ids))[: self.positions_per_text]) for ids in chosen]
        tuned_TD = torch.cat([tuned_BLD[b, where] for b, where in enumerate(positions)])
        original_TD = torch.cat([self.original[id(ids)][where] for ids, where in zip(chosen, positions, strict=True)])
        return self._divergence(original_TD, tuned_TD)

    def _divergence(self, original_TD: Tensor, tuned_TD: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            original_TV = self.vlm.lm_head(original_TD).float().log_softmax(-1)
            tuned_TV = self.vlm.lm_head(tuned_TD).float().log_softmax(-1)
        return F.kl_div(tuned_TV, original_TV, reduction="batchmean", log_target=True)

    @torch.no_grad()
    def held_out(self, *, num_texts: int = 40) -> dict[str, float]:
        """KL to the original and cross-entropy per token (nats) on held-out texts, before and now."""
        kl, now, before, tokens = 0.0, 0.0, 0.0, 0
        for ids in self.test[:num_texts]:
            tuned_LD, original_LD = self._run([ids])[0, :-1], self.original[id(ids)][:-1]
            with torch.autocast("cpu", torch.bfloat16):
                tuned_LV, original_LV = self.vlm.lm_head(tuned_LD).float(), self.vlm.lm_head(original_LD).float()
            kl += F.kl_div(
                tuned_LV.log_softmax(-1), original_LV.log_softmax(-1), reduction="sum", log_target=True
            ).item()
            now += F.cross_entropy(tuned_LV, ids[1:], reduction="sum").item()
            before += F.cross_entropy(original_LV, ids[1:], reduction="sum").item()
            tokens += len(ids) - 1
        return {"kl": kl / tokens, "cross_entropy": now / tokens, "cross_entropy_before": before / tokens}
