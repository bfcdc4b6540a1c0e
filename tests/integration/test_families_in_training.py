"""What the Trainer gets wrong in some families: names of files (LLaVA and others), accumulation (Qwen-VL, GLM-4V)."""

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from helpers.held_models import letter_texts
from helpers.tiny_models import RENAMED, tiny_vlm
from helpers.tiny_training import LetterTokenizer, answered_rows, examples_of, family_trainer, joined_rows
from textanchor.holds import FilterConfig, fit_anchor, plan_holds
from textanchor.training.hf import AnchorCallback, PenaltyMixin
from textanchor.vlm.parts import find_parts

MEANS_OF_BATCHES = ("qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v")
"""Families of which the Trainer averages the means of the batches that it accumulates, long answers or short."""


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return sum(float((first[name] - second[name]).square().sum()) for name in first) ** 0.5


@pytest.mark.parametrize("name", RENAMED)
def test_our_checkpoints_are_loaded_whatever_the_family_calls_its_tensors(name: str, tmp_path: Path) -> None:
    whole = family_trainer(name, tmp_path, save_steps=2)
    start = values(whole.parts.model)
    whole.train()
    end = values(whole.parts.model)
    assert distance(start, end) > 1e-2
    again = family_trainer(name, tmp_path)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for key, tensor in values(again.parts.model).items():
        assert torch.equal(tensor, end[key]), key


@pytest.mark.parametrize("name", MEANS_OF_BATCHES)
def test_an_accumulated_batch_is_the_batch_where_answers_differ_in_length(name: str, tmp_path: Path) -> None:
    ends = []
    for size in (4, 1):
        # SGD, because Adam turns the rounding of gradients that are nearly zero into whole steps
        trainer = family_trainer(
            name, tmp_path, batch_size=size, accumulation=4 // size, optim="sgd", max_grad_norm=0.5
        )
        start = values(trainer.parts.model)
        trainer.train()
        ends.append(values(trainer.parts.model))
    assert distance(start, ends[0]) > 1e-3
    assert distance(*ends) < 1e-4 * distance(start, ends[0])


class PenaltyTrainer(PenaltyMixin, Trainer):
    pass


def held_projector(name: str, hold: str, **options: Any) -> tuple[Any, AnchorCallback]:
    model = tiny_vlm(name).requires_grad_(False)
    parts = find_parts(model)
    for parameter in parts.parameters_of("projector").values():
        parameter.requires_grad_(True)
    processor = SimpleNamespace(tokenizer=LetterTokenizer())
    anchor = fit_anchor(model, processor, letter_texts(8), parts=parts, linears=[])
    config = FilterConfig(mode="outputs", num_kept=8, hold=hold, **options)  # pyright: ignore[reportArgumentType]
    return model, AnchorCallback(plan_holds(parts, anchor, config))


@pytest.mark.parametrize("counts_labels", [False, True], ids=["means of batches", "labels counted"])
@pytest.mark.parametrize("name", ("llava", *MEANS_OF_BATCHES))
def test_the_penalty_of_an_accumulated_batch_is_that_of_the_batch(
    name: str, counts_labels: bool, tmp_path: Path
) -> None:
    """All rows have one image, so that the penalty of each is that of all; answers are equally long unless counted."""
    rows, ends = answered_rows(name), []
    for size in (4, 1):
        model, callback = held_projector(name, "penalty", strength=100.0)
        start = values(model)
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=3,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=4 // size,
            optim="sgd",
            learning_rate=1e-2,
            max_grad_norm=0.0,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
        )
        given = rows if counts_labels else [row | {"labels": row["input_ids"]} for row in rows]
        trainer = PenaltyTrainer(model, arguments, joined_rows, given, callbacks=[callback])  # pyright: ignore
        if counts_labels:
            trainer.model_accepts_loss_kwargs = True
        trainer.train()
        ends.append(values(model))
    assert distance(start, ends[0]) > 1e-3
    assert distance(*ends) < 1e-3 * distance(start, ends[0])


@pytest.mark.parametrize("name", MEANS_OF_BATCHES)
def test_the_example_takes_the_same_step_however_a_batch_is_cut(name: str, repository: Path) -> None:
    tune = runpy.run_path(str(repository / "examples" / "vlm_trainer.py"))["tune"]
    tune.__globals__["encode"] = lambda example, _: example
    processor, ends = SimpleNamespace(tokenizer=LetterTokenizer()), []
    for size in (4, 1):
        model: Any = tiny_vlm(name)
        start = values(model)
        report = tune(
            model, processor, examples_of(name), letter_texts(8), steps=3, batch_size=size, accumulation=4 // size
        )
        report.require_kept()
        ends.append(values(model))
    assert distance(*ends) < 1e-2 * distance(start, ends[0])
