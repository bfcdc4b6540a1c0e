"""Holds in the Hugging Face Trainer and its subclasses (TRL), and the callbacks that `adapt` knows.

`Trainer(..., callbacks=[AnchorCallback(plan)])` is all that exact, share and decay need. The term of hold="penalty"
joins the loss with `PenaltyMixin`: `class MyTrainer(PenaltyMixin, SFTTrainer): pass`.
"""

import logging
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from textanchor.errors import HoldError
from textanchor.files import read_json, sha256_of_json
from textanchor.holds import HoldHandle, HoldPlan, attach
from textanchor.holds.optimizers import stepping_optimizer
from textanchor.outputs import writing
from textanchor.vlm.names import base_parameters

if TYPE_CHECKING:
    from textanchor.training.session import Session

logger = logging.getLogger(__name__)

OTHER_NAMES = (
    "Transformers saves some families (LLaVA, Qwen-VL, Gemma 3 and others) under names that its Trainer does not find "
    "again, and only logs it"
)
LOAD = '`model.load_state_dict(type(model).from_pretrained("{}").state_dict())`'

HOLDS_FILE = "holds.safetensors"
"""File of a checkpoint with the reference that the holds count from."""
HOLDS_HASHES = ("plan", "base", "reference")
"""What its header says of the hold, beside the hash of the weights."""


class AnchorCallback(TrainerCallback):
    """Holds a model by `plan` while it is trained, keeps the reference with each checkpoint, and audits it at the end.

    HoldError where a step of the optimizer was not held, or a promise of `exact` is broken at the end. A run that
    resumes a checkpoint takes its reference; HoldError where the checkpoint has none, because its weights have already
    moved and would be taken for the start, and where the Trainer did not load its weights.
    """

    def __init__(self, plan: HoldPlan):
        self.plan = plan
        self.handle: HoldHandle | None = None
        """The hold at work, once training has begun; its `audit()` also after the end."""
        self._num_penalties = 0
        self._num_held_steps = 0
        self._has_warned = False

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        """Attach the plan to the optimizer."""
        if self.handle is not None:
            self.handle.remove()
        folder = checkpoint_folder(args, state)
        saved = None if state.global_step == 0 else load_holds(folder)
        self.handle, self._num_held_steps = attach(self.plan, optimizer, model, state=saved), 0
        if saved is not None and _weights_hash(self.handle.model) != saved["weights"]:
            raise HoldError(
                f"{folder}: the trainer did not load this checkpoint's weights into the model, so it would go on from "
                f"other ones. {OTHER_NAMES}. After making the plan, load them yourself: {LOAD.format(folder)}, then "
                "train with resume_from_checkpoint; or use textanchor adapt, whose checkpoints are its own"
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer: Any = None, **_: Any
    ) -> None:
        """Notice a step that was not held, and a penalty that nobody adds to the loss."""
        if self.handle is None:
            return
        if self.handle.num_steps == self._num_held_steps and not getattr(optimizer, "step_was_skipped", False):
            name = type(stepping_optimizer(optimizer)).__name__
            raise HoldError(
                f"step {state.global_step} of {name} was not held: torch's hooks after optimizer steps did not run, "
                "because the trainer moves the weights by another way than the optimizer's step(), or the optimizer "
                "has put another one in its place. Use an optimizer of torch.optim, such as AdamW"
            )
        self._num_held_steps = self.handle.num_steps
        if self.handle.penalty is not None and self._num_penalties == 0:
            raise HoldError(
                "hold='penalty' is a term of the loss, and this trainer does not add it; train with "
                "`class MyTrainer(PenaltyMixin, Trainer): pass` (textanchor.training.hf), or choose exact, share or "
                "decay"
            )
        self._num_penalties = 0

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the reference into the checkpoint, and warn of one that the Trainer will not find its weights in."""
        if self.handle is None:
            return
        folder = checkpoint_folder(args, state)
        save_holds(self.handle, folder)
        lost = names_not_found(self.handle.model, folder)
        if lost and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s: %d of the trained tensors (%s, ...) have other names in this file than in the model, so that "
                "neither resume_from_checkpoint nor load_best_model_at_end will load them. %s. Load them yourself: %s",
                *(folder, len(lost), lost[0], OTHER_NAMES, LOAD.format(folder)),
            )

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Stop holding, and raise HoldError where a promise was not kept."""
        if self.handle is None:
            return
        self.handle.remove()
        best = state.best_model_checkpoint if args.load_best_model_at_end else None
        if best is not None and load_holds(Path(best))["weights"] != _weights_hash(self.handle.model):
            logger.warning(
                "load_best_model_at_end: the model has the weights of the last step, not those of %s. %s. Load them "
                "yourself: %s",
                *(best, OTHER_NAMES, LOAD.format(best)),
            )
        self.handle.audit().require_kept()

    def penalty(self) -> Tensor | float:
        """The term of hold="penalty" for the forward pass since the last call; 0 under other holds."""
        self._num_penalties += 1
        return 0.0 if self.handle is None or self.handle.penalty is None else self.handle.penalty()


class PenaltyMixin:
    """Put before a Trainer class, adds the terms of its `AnchorCallback`s to the loss; it is averaged over a step."""

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **keywords: Any) -> Any:
        """The loss of the class behind, plus the penalties."""
        trainer: Any = self
        result: Any = super().compute_loss(model, inputs, return_outputs, **keywords)  # pyright: ignore
        loss, *rest = result if return_outputs else (result,)
        held = [callback for callback in trainer.callback_handler.callbacks if isinstance(callback, AnchorCallback)]
        is_scaled = trainer.loss_is_scaled_for_ga  # None: as the Trainer itself decides
        if is_scaled is None:
            counted = trainer.model_accepts_loss_kwargs and keywords.get("num_items_in_batch") is not None
            is_scaled = counted or trainer.compute_loss_func is not None
        scale = 1 / trainer.current_gradient_accumulation_steps if is_scaled else 1.0
        loss = loss + scale * sum(callback.penalty() for callback in held)
        return (loss, *rest) if return_outputs else loss


def save_holds(handle: HoldHandle, folder: Path) -> None:
    """Write what `load_holds` reads."""
    state = handle.state_dict()
    values = {name: value.contiguous() for name, value in state["values"].items()}
    metadata = {key: state[key] for key in HOLDS_HASHES} | {"weights": _weights_hash(handle.model)}
    with writing(folder / HOLDS_FILE, num_bytes=sum(value.nbytes for value in values.values())):
        save_file(values, folder / HOLDS_FILE, metadata=metadata)


def load_holds(folder: Path) -> dict[str, Any]:
    """The state of the holds in a checkpoint, for `attach`; HoldError where there is none."""
    file = folder / HOLDS_FILE
    if not file.is_file():
        raise HoldError(
            f"{file}: no such file, so the weights that the holds count from are not known; resume from a checkpoint "
            "that was written with AnchorCallback, with the output_dir of that run"
        )
    try:
        with safe_open(file, framework="pt") as opened:
            names: list[str] = list(opened.keys())
            state = {**(opened.metadata() or {}), "values": {name: opened.get_tensor(name) for name in names}}
    except SafetensorError as error:
        raise HoldError(f"{file}: is damaged ({error}); resume from an earlier checkpoint") from error
    if missing := [key for key in (*HOLDS_HASHES, "weights") if key not in state]:
        raise HoldError(f"{file}: has no {missing[0]!r} in its header; resume from an earlier checkpoint")
    return state


def names_not_found(model: nn.Module, checkpoint: Path) -> list[str]:
    """Names of the trained tensors that the Trainer, which goes by the model's own names, would not find in its file.

    None where it wrote no such file: an adapter's is read by PEFT, and others by whoever wrote them.
    """
    file, index = checkpoint / SAFE_WEIGHTS_NAME, checkpoint / SAFE_WEIGHTS_INDEX_NAME
    if file.is_file():
        with safe_open(file, framework="pt") as opened:
            stored = set(opened.keys())
    elif index.is_file():
        stored = set(read_json(index)["weight_map"])
    else:
        return []
    names: dict[int, list[str]] = defaultdict(list)  # tied tensors have several, of which one is written
    for name, tensor in model.state_dict(keep_vars=True).items():
        if tensor.requires_grad:
            names[id(tensor)].append(name)
    return [own[0] for own in names.values() if stored.isdisjoint(own)]


def _weights_hash(model: nn.Module) -> str:
    """Of the bits of everything that is trained, whatever wraps the model."""
    trained = sorted((name, p.detach()) for name, p in base_parameters(model).items() if p.requires_grad)
    whole = ((name, p.full_tensor() if isinstance(p, DTensor) else p) for name, p in trained)
    return sha256_of_json([(name, int(torch.hash_tensor(p).view(torch.int64))) for name, p in whole])


class RunCallback(TrainerCallback):
    """A callback that `adapt` tells about the run, and whose record goes into checkpoints and into run.json."""

    name: str
    """Key of the record."""

    def on_run_begin(self, session: "Session", plan: HoldPlan | None) -> None:
        """Called once before training, also of a resumed run; the model has its starting weights.

        `plan` is what the run's method holds, None where it holds nothing.
        """

    def record(self) -> Any:
        """What was recorded so far, as plain values for JSON; None for nothing."""
        return None

    def restore(self, record: Any) -> None:
        """Go on from what `record` gave when the checkpoint was written."""


class TokenCounter(RunCallback):
    """Number of tokens that a run was trained on, over all sittings of a resumed one."""

    name = "tokens"

    def __init__(self) -> None:
        self.count = 0

    def record(self) -> int:
        """The number so far."""
        return self.count

    def restore(self, record: int) -> None:
        """Go on from the number of a checkpoint."""
        self.count = record


def checkpoint_folder(args: TrainingArguments, state: TrainerState) -> Path:
    """Folder of the checkpoint of the current step."""
    return Path(args.output_dir or ".") / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
