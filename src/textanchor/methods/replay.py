"""Replay: questions of old tasks are mixed into the training data."""

from collections.abc import Sequence
from dataclasses import dataclass

from textanchor.data.items import Conversation
from textanchor.data.reference_images import ReferenceImages
from textanchor.errors import ConfigError
from textanchor.training.method import AbstractMethod, AnsweredByBase, Needs
from textanchor.training.reference import OldData


@dataclass(frozen=True, kw_only=True)
class Replay(AbstractMethod):
    """The mean cross-entropy over the union of the new data and M conversations of old tasks, shuffled together.

    With `old` the answers are given. With `reference` there are only images with questions, and what is replayed is the
    model's own greedy answer, taken before training (self-distilled replay). The number of steps stays that of the
    configuration, so with max_steps fewer new conversations are seen than without replay.

    Source: experience replay as in Rolnick et al., arXiv 1811.11682; the model's own answers as targets as in
    pseudo-rehearsal (Robins, Connection Science 7(2), 1995), here for given inputs; mixing into each batch by plain
    shuffling is our choice.
    """

    old: OldData | None = None
    """What is replayed with its answers: tasks or a file, and how many conversations of it (M; of each task)."""
    reference: ReferenceImages | None = None
    """What is replayed with the model's own answers: images with a question each (M in all); give this or old."""

    def __post_init__(self) -> None:
        if (self.old is None) == (self.reference is None):
            raise ConfigError("replay takes exactly one of old (with answers) and reference (the model answers)")
        if self.reference is not None and self.reference.folder is not None and self.reference.question is None:
            raise ConfigError("replay asks about each reference image: give reference.question beside folder")

    @property
    def needs(self) -> Needs:
        """Questions of what is to be kept, answered where `old` gives them."""
        return "reference questions" if self.old is None else "old data"

    def training_data(
        self, conversations: Sequence[Conversation], seed: int, answered: AnsweredByBase
    ) -> Sequence[Conversation]:
        """The new conversations and the old ones; the trainer shuffles them."""
        if self.old is not None:
            return [*conversations, *self.old.load(seed)]
        assert self.reference is not None  # replay has one of the two
        return [*conversations, *answered(self.reference.questions())]
