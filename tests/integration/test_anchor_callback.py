"""Holds in a Trainer of the user's own, without adapt."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments, default_data_collator

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_runs import mixed_conversations
from textanchor.errors import HoldError
from textanchor.holds import Anchor, FilterConfig, audit_plan, fit_anchor, plan_holds
from textanchor.methods.app import read_texts
from textanchor.training.collate import Collator
from textanchor.training.hf import HOLDS_FILE, AnchorCallback, PenaltyMixin
from textanchor.training.sequences import encode
from textanchor.vlm.parts import find_parts


class PenaltyTrainer(PenaltyMixin, Trainer):
    pass


def setting(hold: str, **options: Any) -> tuple[Any, Any, Any]:
    """Model with only its projector trained, examples, and a plan that holds what the projector writes."""
    model, processor = tiny_llava_with_processor()
    model.requires_grad_(False)
    parts = find_parts(model)
    for parameter in parts.parameters_of("projector").values():
        parameter.requires_grad_(True)
    anchor = fit_anchor(model, processor, read_texts(None, 8), linears=[])
    plan = plan_holds(parts, anchor, FilterConfig(mode="outputs", num_kept=8, hold=hold, **options))  # pyright: ignore
    return model, [encode(c, processor) for c in mixed_conversations()], plan


def trainer(
    cls: type[Trainer],
    model: Any,
    examples: Any,
    plan: Any,
    folder: Path,
    data_collator: Any = Collator(pad_token_id=0),  # noqa: B008 -- it has no state
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
    return cls(model, TrainingArguments(**arguments | changes), data_collator, examples, callbacks=list(callbacks))


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


class Regression(nn.Linear):
    """A linear that gives its own loss."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:  # pyright: ignore
        return {"loss": (super().forward(x) - y).square().mean()}


def regression(folder: Path, **changes: Any) -> tuple[Regression, Trainer]:
    torch.manual_seed(0)
    model, states_ND = Regression(8, 12), torch.randn(64, 12) * torch.linspace(3, 0.1, 12)
    plan = Anchor.from_states(states_ND).plan(model, "out", num_kept=3, hold="share")
    rows = [{"x": x, "y": y} for x, y in zip(torch.randn(16, 8), torch.randn(16, 12), strict=True)]
    return model, trainer(Trainer, model, rows, plan, folder, data_collator=default_data_collator, **changes)


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
