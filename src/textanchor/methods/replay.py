"""Replay: questions of old tasks are mixed into the training data."""

from collections.abc import Sequence
from dataclasses import dataclass

from textanchor.data.items import Conversation
from textanchor.training.method import AbstractMethod, Needs
from textanchor.training.reference import OldData


@dataclass(frozen=True, kw_only=True)
class Replay(AbstractMethod):
    """The mean cross-entropy over the union of the new data and M conversations of old tasks, shuffled together.

    The number of steps stays that of the configuration, so with max_steps fewer new conversations are seen than
    without replay.

    Source: experience replay as in Rolnick et al., arXiv 1811.11682; mixing into each batch by plain shuffling is our
    choice.
    """

    old: OldData
    """What is replayed: tasks or a file, and how many conversations of it (M; of each task)."""

    @property
    def needs(self) -> Needs:
        """Answered questions of what is to be kept."""
        return "old data"

    def training_data(self, conversations: Sequence[Conversation], seed: int) -> Sequence[Conversation]:
        """The new conversations and the old ones; the trainer shuffles them."""
        return [*conversations, *self.old.load(seed)]
