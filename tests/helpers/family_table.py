"""What works in each family, tried on its tiny random model: the rows of docs/families.md."""

import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from helpers.held_models import letter_texts, train, trained_parameters
from helpers.tiny_models import model_type_of, tiny_inputs, tiny_vlm
from helpers.tiny_training import LetterTokenizer
from textanchor.diffs import diff
from textanchor.errors import TextanchorError
from textanchor.holds import Anchor, FilterConfig, attach, fit_anchor, plan_holds
from textanchor.vlm.parts import VLMParts, find_parts

COLUMNS = ("parts", "anchor", "hold", "save and diff", "LoRA with projector")
WORKS, NEEDS_PARTS = "works", "-"
PROCESSOR = SimpleNamespace(tokenizer=LetterTokenizer())
INPUTS_HELD = FilterConfig(mode="inputs", kept_energy=0.5)
FUNCTION_HELD = FilterConfig(mode="outputs", num_kept=4, hold="penalty", strength=1.0)
NUM_TEXTS, NUM_STEPS, RATE = 6, 3, 1e-2


@dataclass(frozen=True)
class FamilyRow:
    """One family; a cell is `WORKS`, with a note in brackets where it holds for a part only, or why not."""

    model_type: str
    cells: tuple[str, ...]

    @property
    def passes(self) -> bool:
        """Whether everything works."""
        return all(cell.startswith(WORKS) for cell in self.cells)


class TriedFamily:
    """A family's tiny model, tried column by column."""

    def __init__(self, name: str) -> None:
        self.name, self.inputs = name, tiny_inputs(name)

    def row(self) -> FamilyRow:
        """All columns; without parts there is nothing to try."""
        parts = tried(self.find)
        others: Iterable[Callable[[], str]] = (self.fit, self.hold, self.save_and_diff, self.train_with_lora)
        cells = [tried(column) if parts == WORKS else NEEDS_PARTS for column in others]
        return FamilyRow(model_type_of(self.name), (parts, *cells))

    def find(self) -> str:
        find_parts(tiny_vlm(self.name))
        return WORKS

    def fit(self) -> str:
        parts = self._parts()
        anchor = self._anchor(parts)
        return _with_share(anchor, [*parts.projector_linears(), *parts.text_linears()], "linears see the inputs")

    def hold(self) -> str:
        """The projector alone, in full, by its inputs or, where it has no linear, by its function."""
        parts = self._parts()
        return self._held(parts, self._anchor(parts, linears=[]))

    def save_and_diff(self) -> str:
        """The projector moved and nothing else."""
        parts = self._parts()
        with tempfile.TemporaryDirectory() as folder:
            base, tuned = Path(folder) / "base", Path(folder) / "tuned"
            parts.model.save_pretrained(base)
            for parameter in parts.parameters_of("projector").values():
                parameter.data.mul_(1.1)
            parts.model.save_pretrained(tuned)
            report = diff(base, tuned)
        moved = {row.part for row in report.parts if row.num_changed}
        assert moved == {"projector"}, moved
        return WORKS

    def train_with_lora(self) -> str:
        """LoRA on the language model's linears that see text, and the projector in full."""
        parts = self._parts()
        anchor = self._anchor(parts)
        linears = [name for name in parts.text_linears() if f"inputs/{name}" in anchor]
        try:
            adapted = get_peft_model(parts.model, LoraConfig(r=2, target_modules=linears))  # pyright: ignore
        except NotImplementedError:  # by Transformers, when PEFT asks for the input embedding
            return "PEFT cannot wrap this class: it has no get_input_embeddings"
        wrapped = find_parts(adapted)
        self._held(wrapped, anchor, {"language_model": INPUTS_HELD})
        return _with_share(anchor, list(parts.text_linears()), "linears of the language model see text")

    def _held(self, parts: VLMParts, anchor: Anchor, others: dict[str, FilterConfig] | None = None) -> str:
        for parameter in parts.parameters_of("projector").values():
            parameter.requires_grad_(True)
        linears = [name for name in parts.projector_linears() if f"inputs/{name}" in anchor]
        plan = plan_holds(parts, anchor, {"projector": INPUTS_HELD if linears else FUNCTION_HELD} | (others or {}))
        plan.freeze()
        start = {name: parameter.detach().clone() for name, parameter in parts.parameters_of("projector").items()}
        optimizer = torch.optim.AdamW(trained_parameters(parts), lr=RATE)
        handle = attach(plan, optimizer)
        term = handle.penalty or (lambda: torch.zeros(()))
        train(lambda: parts.model(**self.inputs).logits.float().square().mean() + term(), optimizer, NUM_STEPS)
        handle.audit().require_kept()
        assert any(not torch.equal(start[name], p) for name, p in parts.parameters_of("projector").items())
        return WORKS if linears else f"{WORKS} (by its function: it has no linear)"

    def _parts(self) -> VLMParts:
        """Of a fresh model, without the zeros and ones that some tensors start with."""
        parts = find_parts(tiny_vlm(self.name).requires_grad_(False))
        torch.manual_seed(0)
        for parameter in parts.model.parameters():
            parameter.data.add_(0.05 * torch.randn_like(parameter))
        return parts

    def _anchor(self, parts: VLMParts, **options: Any) -> Anchor:
        return fit_anchor(parts.model, PROCESSOR, letter_texts(NUM_TEXTS), [self.inputs] * 2, parts=parts, **options)


def tried(column: Callable[[], str]) -> str:
    """What a column says; what the product refuses is its first sentence, without class and model type."""
    try:
        return column()
    except TextanchorError as error:
        said = str(error).partition("'): ")[2] or str(error)
        said = re.sub(r"^/\S+/", "", said)  # of the temporary folder
        return re.sub(r" \(\w+Error: .*", "", said).split("; ")[0].split(". ")[0]


def _with_share(anchor: Anchor, linears: Sequence[str], what: str) -> str:
    seen = sum(f"inputs/{name}" in anchor for name in linears)
    return WORKS if seen == len(linears) else f"{WORKS} ({seen} of {len(linears)} {what})"
