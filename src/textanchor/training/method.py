"""What a method is: it may choose what is trained and with which adapters, add data, add terms to the loss, and act on
the weights through callbacks and after the last step.

A method is a frozen dataclass whose fields are its options, one file each in `textanchor.methods`.
"""

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from textanchor.config import from_dict
from textanchor.errors import ConfigError
from textanchor.training.config import AdaptConfig, PartConfig, PartName, PartsConfig

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import TrainerCallback

    from textanchor.data.items import Conversation, Item
    from textanchor.holds import HoldPlan, Probe
    from textanchor.training.adapters import AdapterTargets
    from textanchor.training.session import Session

Needs = Literal["nothing", "text", "reference images", "reference questions", "old data"]
"""What a method asks for beside the training data; methods are compared within one class of needs.

"reference images" are unlabelled; "reference questions" are such images with a question each, without answers; "old
data" are questions with images and answers, of what the model is to keep.
"""


AnsweredByBase: TypeAlias = "Callable[[Sequence[Item]], list[Conversation]]"
"""Questions with what the model answers before it is trained."""


@dataclass(frozen=True)
class Batch:
    """One forward pass, as `Attachment.batch_penalty` sees it; K labels in the batch, vocabulary of V."""

    logits_KV: "Tensor"
    """Logits of the model in training that predict the labels, with their graph."""
    forward: "Callable[[], Tensor]"
    """The same logits, computed again with the weights as they are then."""


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """What a method adds to one training run."""

    callbacks: "tuple[TrainerCallback, ...]" = ()
    """Called by the trainer; the record of a `RunCallback` goes into each checkpoint."""
    penalty: "Callable[[], Tensor | float] | None" = None
    """Scalar added to the loss, called once after each forward pass; its weights over an accumulated batch sum to 1."""
    batch_penalty: "Callable[[Batch], Tensor] | None" = None
    """Scalar that depends on the batch, added to the loss in the same way."""
    finish: "Callable[[], None] | None" = None
    """Called once after the last step, before audit and export; it may change the trained weights."""
    plan: "HoldPlan | None" = None
    """What the run must keep; it is audited at the end."""
    probe: "Probe | None" = None
    """Held-out inputs on which the audit measures what the held function did."""

    @property
    def held(self) -> tuple[str, ...]:
        """Base names of the tensors that train under a rule."""
        return () if self.plan is None else self.plan.trained


@dataclass(frozen=True, kw_only=True)
class AbstractMethod:
    """One way of tuning that tries to keep what the model had; the docstring of each states its formula and source."""

    @property
    def needs(self) -> Needs:
        """What the method asks for with these options."""
        raise NotImplementedError(f"{type(self).__name__} must say what it needs")

    @property
    def trains(self) -> bool:
        """Whether the run trains at all."""
        return True

    @property
    def keeps_base(self) -> bool:
        """Whether LoRA counts from the base weights as they were, so that it can be exported without them."""
        return True

    def default_parts(self) -> PartsConfig:
        """What is trained where the configuration does not say."""
        return PartsConfig()

    def check_parts(self, parts: PartsConfig) -> None:
        """Raise ConfigError naming the key where this method cannot train these parts; by default it can."""

    def check(self, config: AdaptConfig) -> None:
        """Raise ConfigError naming the key where another setting of the run would have no effect; by default none."""

    def adapted(self, parts: PartsConfig) -> dict[PartName, PartConfig]:
        """The parts whose linears get an adapter, all else in them being frozen; by default those with train: lora."""
        return {name: part for name, part in parts.trained().items() if part.train == "lora"}

    def make_adapter(self, targets: "AdapterTargets") -> "nn.Module":
        """The model with adapters on `targets`; by default PEFT's LoRA with B = 0."""
        return targets.wrapped(targets.lora_config())

    def training_data(
        self, conversations: "Sequence[Conversation]", seed: int, answered: "AnsweredByBase"
    ) -> "Sequence[Conversation]":
        """What is trained on, made from the configuration's own conversations; by default these."""
        return conversations

    def start(self, session: "Session") -> Attachment:
        """Prepare one run whose trained tensors are set up and whose optimizer is not made yet; by default nothing."""
        return Attachment()


def load_method(options: Mapping[str, Any]) -> AbstractMethod:
    """The method called `options["name"]` with its other options; ConfigError naming an unknown method or option."""
    # methods are a layer above and import this module, so their table is found by name at run time
    table: dict[str, str] = importlib.import_module("textanchor.methods").METHODS
    name = options.get("name")
    if name is None:
        raise ConfigError(f"the key 'method.name' is missing; known methods are {', '.join(table)}")
    if not isinstance(name, str) or name not in table:
        close = difflib.get_close_matches(str(name), table, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(table)}"
        raise ConfigError(f"method.name: unknown method {name!r}; {hint}")
    module, _, attribute = table[name].partition(":")
    method = getattr(importlib.import_module(module), attribute)
    return from_dict(method, {key: value for key, value in options.items() if key != "name"}, source=f"method {name}")
