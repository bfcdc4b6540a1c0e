"""What taking a band out costs and gives back, beside random directions of equal energy and beside WiSE-FT."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from page.draws import Kept, Key, UpdateDraws, mean_of_present, over_updates
from textanchor.stats import Interval

SMALLEST_EFFECT: dict[Kept, float] = {"retained": 0.05, "text": 0.005}
"""Nats of an item, and of a token; an effect whose interval lies below it does not count as one."""
TUNED: Key = ("wise", 1.0)
BASE: Key = ("wise", 0.0)
IDENTITY, INPUTS = "identity", "inputs_"


LEAST_LEARNED = 0.1
"""Nats beyond an even guess; an update that learned less cannot tell what a removal costs."""


def learners(updates: Sequence[UpdateDraws]) -> list[UpdateDraws]:
    """The updates that learned their task; all whose records do not say what a guess costs."""
    return [u for u in updates if "guess_nats" not in u.record.extra or u.learned(TUNED)[0] >= LEAST_LEARNED]


def is_random(band: str) -> bool:
    """Whether a band is a draw of the control."""
    return "random:" in band


@dataclass(frozen=True)
class Effect:
    """One form at one extent, over all updates that have it."""

    band: str
    extent: float
    num_updates: int
    num_directions: float | None
    """Mean over updates, and over linears where there are several."""
    lost: Interval
    """Nats of what was learned (`UpdateDraws.learned`), the tuned model against this."""
    regained: Interval
    """Nats of the retained tasks, the tuned model against this."""
    new_accuracy: float
    old_accuracy: float
    lost_against_random: Interval | None
    """The same, less the mean of the random draws."""
    regained_against_random: Interval | None
    beyond_front: Interval | None
    """Nats of the retained tasks, WiSE-FT at equal learning against this."""
    beyond_random: Interval | None
    """The same, less that of the random draws."""
    num_on_front: int
    """Updates in which WiSE-FT's front reaches this learning."""


def effect(updates: Sequence[UpdateDraws], kind: str, band: str, extent: float) -> Effect:
    """The effect of a removal or an oracle; the updates all have it."""
    key = (kind, band, extent)
    own = [update for update in updates if key in update.conditions]
    matched = [update for update in own if random_keys(update, kind, band, extent)] if not is_random(band) else []

    def against_random(value: Callable[[UpdateDraws, Key], np.ndarray]) -> Interval | None:
        return over_updates(matched, lambda update: minus_random(update, key, value))

    lost = over_updates(own, lambda update: update.learned(TUNED) - update.learned(key))
    regained = over_updates(own, lambda update: update.old(TUNED) - update.old(key))
    assert lost is not None and regained is not None
    return Effect(
        band=band,
        extent=extent,
        num_updates=len(own),
        num_directions=_mean_directions(own, key),
        lost=lost,
        regained=regained,
        new_accuracy=_accuracy(update.new(key, "correct")[0] for update in own),
        old_accuracy=_accuracy(update.old(key, "correct")[0] for update in own),
        lost_against_random=against_random(lambda update, k: -update.learned(k)),
        regained_against_random=against_random(lambda update, k: -update.old(k)),
        beyond_front=over_updates(own, lambda update: update.beyond_front(key)),
        beyond_random=against_random(lambda update, k: update.beyond_front(k)),
        num_on_front=sum(not np.isnan(update.beyond_front(key)[0]) for update in own),
    )


def minus_random(update: UpdateDraws, key: Key, value: Callable[[UpdateDraws, Key], np.ndarray]) -> np.ndarray:
    """A value under a condition, less its mean over the random draws of the same extent."""
    draws = [value(update, other) for other in random_keys(update, *key)]
    return value(update, key) - np.mean(draws, axis=0)


def random_keys(update: UpdateDraws, kind: str, band: str, extent: float) -> list[Key]:
    """The random draws with the same extent on the same side; identity has those of the outputs where there are any."""
    drawn = [k for k in update.conditions if k[0] == kind and is_random(k[1]) and k[2] == extent]
    at_outputs = [key for key in drawn if not key[1].startswith(INPUTS)]
    if band.startswith(INPUTS) or (band == IDENTITY and not at_outputs):
        return [key for key in drawn if key not in at_outputs]
    return at_outputs


@dataclass(frozen=True)
class TextEffect:
    """How far plain text is from the base with one form at one extent, whatever the updates learned."""

    band: str
    extent: float
    more: Interval
    """Nats per token more than the base's."""
    against_random: Interval | None
    """The same, less the mean of the random draws of the same extent."""


def text_effects(updates: Sequence[UpdateDraws], kind: str) -> list[TextEffect]:
    """One for every form at every extent."""
    found = []
    for band, extent in extents(updates, kind):
        key = (kind, band, extent)
        own = [update for update in updates if key in update.conditions]
        drawn = [] if is_random(band) else [update for update in own if random_keys(update, *key)]
        more = over_updates(own, lambda update, key=key: update.text(key) - update.text(BASE))
        less = over_updates(drawn, lambda update, key=key: minus_random(update, key, lambda u, k: u.text(k)))
        assert more is not None
        found.append(TextEffect(band, extent, more, less))
    return found


def extents(updates: Sequence[UpdateDraws], kind: str) -> list[tuple[str, float]]:
    """Bands with their extents, in the order in which they were measured."""
    keys = dict.fromkeys(key for update in updates for key in update.conditions if key[0] == kind)
    return [(key[1], key[2]) for key in keys]


@dataclass(frozen=True)
class Decision:
    """Whether a form goes on, over all shares at which it was measured."""

    band: str
    against_random: Interval | None
    beyond_front: Interval | None
    smallest: float

    @property
    def beats_random(self) -> str:
        """yes: the interval lies above 0; no: it lies below the smallest effect; else undecided."""
        return verdict(self.against_random, self.smallest)

    @property
    def beats_front(self) -> str:
        """The same against WiSE-FT."""
        return verdict(self.beyond_front, self.smallest)


def decisions(updates: Sequence[UpdateDraws], what: Kept = "retained") -> list[Decision]:
    """One for every band that is no control (random, identity), its shares averaged within each update."""
    shares: dict[str, list[float]] = {}
    for band, share in extents(updates, "removal"):
        if not is_random(band) and band != IDENTITY:
            shares.setdefault(band, []).append(share)
    return [_decision(updates, band, own, what) for band, own in shares.items()]


def _decision(updates: Sequence[UpdateDraws], band: str, shares: Sequence[float], what: Kept) -> Decision:
    def beyond_random(update: UpdateDraws, key: Key) -> np.ndarray:
        if not random_keys(update, *key):
            return np.full(1, np.nan)
        return minus_random(update, key, lambda u, k: u.beyond_front(k, what))

    def pooled(value: Callable[[UpdateDraws, Key], np.ndarray]) -> Interval | None:
        def over_shares(update: UpdateDraws) -> np.ndarray:
            keys = [("removal", band, share) for share in shares]
            found = [value(update, key) for key in keys if key in update.conditions]
            found = [draws for draws in found if not np.isnan(draws[0])]
            return mean_of_present(np.array(found)) if found else np.full(1, np.nan)

        measured = [update for update in updates if not np.isnan(over_shares(update)[0])]
        return over_updates(measured, over_shares)

    beyond_front = pooled(lambda update, key: update.beyond_front(key, what))
    return Decision(band, pooled(beyond_random), beyond_front, SMALLEST_EFFECT[what])


def verdict(interval: Interval | None, smallest: float) -> str:
    """yes, no or undecided; "not measured" without an interval."""
    if interval is None:
        return "not measured"
    if interval.low > 0:
        return "yes"
    return "no" if interval.high < smallest else "undecided"


def _mean_directions(updates: Sequence[UpdateDraws], key: Key) -> float | None:
    counts = []
    for update in updates:
        count = update.conditions[key].get("num_directions")
        if count is not None:
            counts.append(fmean(count.values()) if isinstance(count, dict) else count)
    return fmean(counts) if counts else None


def _accuracy(values: Iterable[float]) -> float:
    return fmean(map(float, values))
