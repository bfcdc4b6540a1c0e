"""What random writing into a band costs the retained tasks.

Shape legend: B draws of items, R random maps.
"""

from dataclasses import dataclass

import numpy as np

from page.draws import NUM_DRAWS, interval_of, weights_of
from page.rows import unpack
from textanchor.records import RunRecord
from textanchor.stats import Interval

RANDOM = "random"


@dataclass(frozen=True)
class SpectrumRow:
    """One band at one energy, over all random maps."""

    band: str
    energy: float
    num_directions: int
    change: Interval
    """Nats of the retained tasks, against the unperturbed model."""
    against_random: Interval | None


def spectrum_rows(record: RunRecord) -> list[SpectrumRow]:
    """All bands and energies; intervals over items and random maps, the same ones for every band."""
    conditions = record.extra["conditions"]
    retained = record.extra["retained"]
    means = {(c["band"], c["energy"], c["draw"]): _old(unpack(c["rows"]), retained) for c in conditions}
    base_B = means["none", 0.0, 0]
    counts = {(c["band"], c["energy"]): c["num_directions"] for c in conditions if c["band"] != "none"}

    def change(band: str, energy: float) -> np.ndarray:
        draws_RB = np.array([m - base_B for (b, e, _), m in means.items() if (b, e) == (band, energy)])
        return (weights_of("maps", len(draws_RB)) * draws_RB.T).sum(axis=1)

    return [
        SpectrumRow(
            band,
            energy,
            count,
            interval_of(change(band, energy)),
            interval_of(change(band, energy) - change(RANDOM, energy))
            if band != RANDOM and (RANDOM, energy) in counts
            else None,
        )
        for (band, energy), count in counts.items()
    ]


def _old(rows: dict[str, dict[str, list[float]]], retained: list[str]) -> np.ndarray:
    """(B,) mean over suites."""
    means = [weights_of(s, len(rows[s]["gold_nats"])) @ np.asarray(rows[s]["gold_nats"]) for s in retained]
    found_B = np.mean(means, axis=0)
    assert found_B.shape == (NUM_DRAWS + 1,)
    return found_B
