"""The outcome of a repair: what was taken back of each tensor, at which strength, and what that did."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from textanchor.diffs.structure import GROUPS
from textanchor.files import write_json, write_text
from textanchor.repairs.validate import SweepPoint
from textanchor.tables import PART_TITLES, Table


@dataclass(frozen=True, kw_only=True)
class RepairedTensor:
    """One tensor that tuning had changed."""

    name: str
    part: str
    rule: str | None
    """Rule of the hold plan, where there is one."""
    change: float
    """||W_tuned - W0||_F."""
    change_left: float = 0.0
    """||W_repaired - W0||_F."""
    is_finite: bool = True

    @classmethod
    def of(cls, name: str, part: str, base: Tensor, tuned: Tensor, rule: str | None) -> Self:
        """The row of a tensor before its repair."""
        change = _distance(base, tuned)
        is_finite = change < float("inf")
        return cls(name=name, part=part, rule=rule, change=change, is_finite=is_finite)

    def after(self, base: Tensor, repaired: Tensor) -> Self:
        """The row with what is left of the change."""
        return replace(self, change_left=_distance(base, repaired))


@dataclass(frozen=True, kw_only=True)
class RepairReport:
    """What a repair did; made by `repair`."""

    base: str
    tuned: str
    out: str
    strength: float
    """0 is the tuned model, 1 the plan in full."""
    tensors: tuple[RepairedTensor, ...]
    sweep: tuple[SweepPoint, ...] = ()
    audit: tuple[dict[str, Any], ...] = ()
    """Rows of the hold plan's audit (see `AuditRow`), where there is one."""
    plan: dict[str, Any] = field(default_factory=dict, repr=False)
    record: dict[str, Any] = field(default_factory=dict, repr=False)

    def part_rows(self) -> list[tuple[str, ...]]:
        """Part, changed tensors, and how much of their change is left."""
        rows = []
        for part in GROUPS:
            tensors = [tensor for tensor in self.tensors if tensor.part == part]
            if tensors:
                total, left = (sum(getattr(t, key) ** 2 for t in tensors) ** 0.5 for key in ("change", "change_left"))
                rules = ", ".join(dict.fromkeys(t.rule for t in tensors if t.rule)) or "-"
                rows.append((PART_TITLES[part], str(len(tensors)), f"{left / total:.1%}" if total else "-", rules))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """As plain values for JSON."""
        points = [asdict(point) | {"h_mean": point.h_mean} for point in self.sweep]
        return {"format": 1, "kind": "repair"} | asdict(self) | {"sweep": points}

    def save(self, folder: Path) -> None:
        """Write repair.json and repair.html into the folder of the repaired model."""
        from textanchor.report.repair import render_repair

        values = self.to_dict()
        write_json(folder / "repair.json", values)
        write_text(folder / "repair.html", render_repair(values, self.part_rows()))

    def __str__(self) -> str:
        lines = [Table(("part", "changed tensors", "change left", "rules"), self.part_rows()).aligned()]
        if self.sweep:
            points = Table(("strength", "learned", "kept", "H-mean"), [_cells(point) for point in self.sweep])
            lines += ["", points.aligned()]
        return "\n".join([*lines, "", f"strength {self.strength:g}, written to {self.out}"])


def _cells(point: SweepPoint) -> tuple[str, ...]:
    return (f"{point.strength:g}", f"{point.learned:.1%}", f"{point.kept:.1%}", f"{point.h_mean:.3f}")


def _distance(first: Tensor, second: Tensor) -> float:
    wide = torch.promote_types(torch.promote_types(first.dtype, second.dtype), torch.float32)
    return float(torch.linalg.vector_norm(second.to(wide) - first.to(wide)))


def rows_of(
    base: dict[str, Tensor],
    tuned: dict[str, Tensor],
    new: dict[str, Tensor],
    parts: dict[str, str],
    rules: dict[str, str],
) -> Sequence[RepairedTensor]:
    """One row for each changed tensor; `new` holds those that the repair changed again."""
    return [
        RepairedTensor.of(name, parts[name], base[name], tuned[name], rules.get(name)).after(
            base[name], new.get(name, tuned[name])
        )
        for name in tuned
    ]
