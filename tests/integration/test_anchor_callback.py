"""Holds in a Trainer of the user's own, without adapt."""

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

from helpers.optimizers import InBackward, Lomo, ScheduleFreeSGD, Unhooked
from helpers.tiny_families import TINY
from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_models import RENAMED, tiny_vlm
from helpers.tiny_runs import mixed_conversations
from textanchor.errors import HoldError
from textanchor.holds import Anchor, FilterConfig, audit_plan, fit_anchor, plan_holds
from textanchor.methods.app import read_texts
from textanchor.training.collate import Collator
from textanchor.training.hf import (
    HOLDS_FILE,
    AnchorCallback,
    PenaltyMixin,
    _weights_hash,
    load_holds,
    names_not_found,
)
from textanchor.training.sequences import encode
from textanchor.vlm.parts import find_parts


class PenaltyTrainer(PenaltyMixin, Trainer):
    pass


def setting(hold: str, wrap: bool = False, **options: Any) -> tuple[Any, Any, Any]:
    """Model with only its projector trained (or LoRA on it), examples, and a plan that holds what it writes."""
    model, processor = tiny_llava_with_processor()
    model.requires_grad_(False)
    anchor = fit_anchor(model, processor, read_texts(None, 8), linears=[])
    if wrap:
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["model.multi_modal_projector.linear_2"]))
    parts = find_parts(model)
    for parameter in parts.parameters_of("projector").values() if not wrap else ():
        parameter.requires_grad_(True)
    plan = plan_holds(parts, anchor, FilterConfig(mode="outputs", num_kept=8, hold=hold, **options))  # pyright: ignore
    return model, [encode(c, processor) for c in mixed_conversations()], plan


def trainer(
    cls: type[Trainer],
    model: Any,
    examples: Any,
    plan: Any,
    folder: Path,
    data_collator: Any = Collator(pad_token_id=0),  # noqa: B008 -- it has no state
    optimizers: Any = (None, None),
    **changes: Any,
) -> Trainer:
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "disable_tqdm": True,
    }
    callbacks = [] if plan is None else [AnchorCallback(plan)]
    return cls(
        model,
        TrainingArguments(**arguments | changes),
        data_collator,
        train_dataset=examples,
        eval_dataset=examples[:2],
        callbacks=list(callbacks),
        optimizers=optimizers,
    )


def test_a_plain_trainer_keeps_the_promise(tmp_path: Path) -> None:
    model, examples, plan = setting("exact")
    trainer(Trainer, model, examples, plan, tmp_path, weight_decay=0.1).train()
    (row,) = audit_plan(plan, model).rows
    assert row.change_norm is not None
    assert row.change_norm > 0.1
    audit_plan(plan, model).require_kept()


def test_without_the_callback_it_would_not_be_kept(tmp_path: Path) -> None:
    model, examples, plan = setting("exact")
    plan.freeze()
    trainer(Trainer, model, examples, None, tmp_path, weight_decay=0.1).train()
    with pytest.raises(HoldError, match="protected directions"):
        audit_plan(plan, model).require_kept()


def replaced_step(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    plain = torch.optim.SGD(optimizer.param_groups[0]["params"], lr=1e-2)
    optimizer.step = plain.step  # pyright: ignore[reportAttributeAccessIssue]
    return optimizer


UNHELD: dict[str, tuple[Any, str]] = {
    "a step of its own": (lambda p: Unhooked(p, lr=1e-2), "step 1 of Unhooked was not held"),
    "a step put in its place": (lambda p: replaced_step(torch.optim.AdamW(p)), "step 1 of AdamW was not held"),
    "in the backward pass": (lambda p: InBackward(p, lr=1e-2), "InBackward moves weights outside its step"),
    "fused backward": (lambda p: Lomo(p, lr=1e-2), "Lomo moves weights inside the backward pass"),
    "schedule-free": (lambda p: ScheduleFreeSGD(p, lr=1e-2), r"ScheduleFreeSGD .* after its eval\(\)"),
}


@pytest.mark.parametrize("name", UNHELD)
def test_a_step_that_was_not_held_is_an_error_that_names_the_optimizer(name: str, tmp_path: Path) -> None:
    model, examples, plan = setting("exact")
    plan.freeze()
    make, words = UNHELD[name]
    optimizer = make([parameter for parameter in model.parameters() if parameter.requires_grad])
    held = trainer(Trainer, model, examples, plan, tmp_path, optimizers=(optimizer, None))
    with pytest.raises(HoldError, match=words):
        held.train()
    assert held.state.global_step <= 1


def test_a_step_that_the_scaler_skipped_is_none(tmp_path: Path) -> None:
    linear, held = regression(tmp_path)
    callback = next(c for c in held.callback_handler.callbacks if isinstance(c, AnchorCallback))
    optimizer = SimpleNamespace(optimizer=torch.optim.SGD(linear.parameters(), lr=0.1), step_was_skipped=True)
    events = held.args, held.state, held.control
    callback.on_train_begin(*events, model=linear, optimizer=optimizer.optimizer)
    callback.on_step_end(*events, optimizer=optimizer)
    optimizer.step_was_skipped = False
    with pytest.raises(HoldError, match="step 0 of SGD was not held"):
        callback.on_step_end(*events, optimizer=optimizer.optimizer)


class Writes(TrainerCallback):
    """Moves weights after the hold has acted, as an averaging of weights of somebody's own would."""

    def on_step_end(self, *_: Any, model: Any = None, **__: Any) -> None:
        with torch.no_grad():
            model.model.multi_modal_projector.linear_2.weight.add_(1e-3)


def test_what_is_written_beside_the_hold_is_an_error_at_the_end(tmp_path: Path) -> None:
    model, examples, plan = setting("exact")
    held = trainer(Trainer, model, examples, plan, tmp_path)
    held.add_callback(Writes())
    with pytest.raises(HoldError, match=r"linear_2: .* lies in protected directions"):
        held.train()
    assert held.state.global_step == 4


class Regression(nn.Linear):
    """A linear that gives its own loss."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:  # pyright: ignore
        return {"loss": (super().forward(x) - y).square().mean()}


def regression(folder: Path, cls: type[Trainer] = Trainer, **changes: Any) -> tuple[Regression, Trainer]:
    torch.manual_seed(0)
    model, states_ND = Regression(8, 12), torch.randn(64, 12) * torch.linspace(3, 0.1, 12)
    plan = Anchor.from_states(states_ND).plan(model, "out", num_kept=3, hold="share")
    rows = [{"x": x, "y": y} for x, y in zip(torch.randn(16, 8), torch.randn(16, 12), strict=True)]
    return model, trainer(cls, model, rows, plan, folder, data_collator=default_data_collator, **changes)


def test_a_resumed_trainer_counts_from_the_base(tmp_path: Path) -> None:
    whole, plain = regression(tmp_path / "whole")
    plain.train()
    regression(tmp_path, save_strategy="steps", save_steps=2)[1].train()
    assert (tmp_path / "checkpoint-2" / HOLDS_FILE).is_file()
    resumed, again = regression(tmp_path)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert torch.equal(resumed.weight, whole.weight)

    (tmp_path / "checkpoint-2" / HOLDS_FILE).unlink()
    with pytest.raises(HoldError, match="AnchorCallback"):
        regression(tmp_path)[1].train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_resume_that_loads_nothing_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    # the Trainer writes a LLaVA under the names of its files and reads them as those in memory: it finds none
    whole, examples, plan = setting("exact")
    trainer(Trainer, whole, examples, plan, tmp_path / "whole").train()
    model, examples, plan = setting("exact")
    trainer(Trainer, model, examples, plan, tmp_path, save_strategy="steps", save_steps=2).train()
    model, examples, plan = setting("exact")
    with pytest.raises(HoldError, match=r"did not load this checkpoint's weights.*load_state_dict"):
        trainer(Trainer, model, examples, plan, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    model, examples, plan = setting("exact")
    model.load_state_dict(type(model).from_pretrained(tmp_path / "checkpoint-2").state_dict())
    trainer(Trainer, model, examples, plan, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    audit_plan(plan, model).require_kept()


KEPT_BEST = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}


class FirstIsBest(Trainer):
    """Scores that fall from evaluation to evaluation."""

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        scores = {"eval_loss": float(self.state.global_step)}
        self.log(scores)
        return scores


@pytest.mark.parametrize("wrap", [False, True], ids=["full", "lora"])
def test_a_best_model_that_the_trainer_does_not_load_is_told(
    wrap: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, examples, plan = setting("exact", wrap=wrap)
    held = trainer(FirstIsBest, model, examples, plan, tmp_path, load_best_model_at_end=True, **KEPT_BEST)
    with caplog.at_level(logging.WARNING, "textanchor"):
        held.train()
    assert held.state.best_model_checkpoint == str(tmp_path / "checkpoint-1")
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("textanchor")]
    if wrap:  # PEFT writes and finds its own names
        assert warnings == []
        return
    first, last = warnings
    assert "neither resume_from_checkpoint nor load_best_model_at_end will load them" in first
    assert "has the weights of the last step, not those of" in last
    (advice,) = re.findall(r"Load them yourself: `(.*)`", last)
    exec(advice, {"model": model})
    assert load_holds(tmp_path / "checkpoint-1")["weights"] == _weights_hash(model)


def test_a_best_model_that_is_loaded_needs_no_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    linear, held = regression(tmp_path, FirstIsBest, load_best_model_at_end=True, **KEPT_BEST)
    with caplog.at_level(logging.WARNING, "textanchor"):
        held.train()
    assert load_holds(tmp_path / "checkpoint-1")["weights"] == _weights_hash(linear)
    assert not [record for record in caplog.records if record.name.startswith("textanchor")]


@pytest.mark.parametrize("name", TINY)
def test_names_that_the_trainer_does_not_find_are_foreseen_in_every_family(name: str, tmp_path: Path) -> None:
    """Of each family: the tensors that `load_state_dict` of the written file leaves as they were."""
    model, other = (tiny_vlm(name, seed=seed).requires_grad_(True) for seed in (0, 1))
    start = {key: tensor.detach().clone() for key, tensor in other.named_parameters()}
    for key, tensor in model.named_parameters():
        tensor.data.copy_(start[key] + 1)
    model.save_pretrained(tmp_path)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    left = [key for key, tensor in other.named_parameters() if torch.equal(tensor, start[key])]
    assert names_not_found(model, tmp_path) == left
    assert left or name not in RENAMED


def test_a_penalty_that_nobody_adds_is_an_error(tmp_path: Path) -> None:
    model, examples, plan = setting("penalty")
    with pytest.raises(HoldError, match="PenaltyMixin"):
        trainer(Trainer, model, examples, plan, tmp_path).train()


def test_the_mixin_adds_the_penalty_once_for_each_step(tmp_path: Path) -> None:
    norms = {}
    for strength in (1e-3, 1e4):
        model, examples, plan = setting("penalty", strength=strength)
        held = trainer(PenaltyTrainer, model, examples, plan, tmp_path)
        held.train()
        batch = Collator(0)(examples[:2])
        callback = next(c for c in held.callback_handler.callbacks if isinstance(c, AnchorCallback))
        assert callback.handle is not None
        callback.on_train_begin(held.args, type(held.state)(), held.control, model=model, optimizer=held.optimizer)
        model(**batch)
        penalty = torch.as_tensor(callback.penalty()).item()
        assert penalty > 0
        expected = model(**batch).loss.item() + penalty / 2
        callback.penalty()  # that forward pass is not asked for again
        held.current_gradient_accumulation_steps = 2
        num_labels = (batch["labels"] != -100).sum()
        found = held.compute_loss(model, dict(batch), num_items_in_batch=num_labels)
        assert found.item() == pytest.approx(expected, rel=1e-5)
        norms[strength] = penalty / strength
    assert norms[1e4] < 0.3 * norms[1e-3]
