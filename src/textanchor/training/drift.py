"""How the weights of each part move over a run, in the directions that a plan protects and in the others."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from textanchor.holds import HoldPlan, audit_plan
from textanchor.training.config import PART_NAMES
from textanchor.training.curve import StepCallback
from textanchor.training.session import Session


class DriftRecorder(StepCallback):
    """Appends {"step", "parts": {part: {"protected", "free", "relative_norm"}}} at the steps of `on_steps`.

    All three are Frobenius norms over those of the part's trained weights at the start: of the whole update, of its
    component P_out Delta P_in in the directions that `plan` protects, and of the rest, so that their squares add up
    under gains of 0 and 1. `plan` is that of the run's method where none is given. It need not be held: with the plan
    of a held run, a plain run shows how far it went in the same directions. Without one, nothing is protected.
    """

    name = "drift"

    def __init__(self, on_steps: Iterable[int], plan: HoldPlan | None = None):
        super().__init__(on_steps)
        self.plan = plan

    def on_run_begin(self, session: Session, plan: HoldPlan | None) -> None:
        self.parts, self.start = session.parts, session.start
        if self.plan is None:
            self.plan = plan

    def measure(self, step: int) -> dict[str, Any]:
        """Drift of every trained part."""
        start_energy: dict[str, float] = defaultdict(float)
        energy: dict[str, float] = defaultdict(float)
        for update in self.start.updates():
            start_energy[update.part] += update.start_norm**2
            energy[update.part] += float(update.delta.norm()) ** 2
        protected = self._protected_energy()
        return {
            "parts": {
                part: {
                    "protected": math.sqrt(protected[part] / start_energy[part]),
                    "free": math.sqrt(max(energy[part] - protected[part], 0.0) / start_energy[part]),
                    "relative_norm": math.sqrt(energy[part] / start_energy[part]),
                }
                for part in PART_NAMES
                if start_energy[part] > 0
            }
        }

    def _protected_energy(self) -> dict[str, float]:
        energy: dict[str, float] = defaultdict(float)
        rows = () if self.plan is None else audit_plan(self.plan, self.parts.model).rows
        for row in rows:
            if row.protected_norm is not None:
                energy[self.parts.part_of(row.name)] += row.protected_norm**2
        return energy
