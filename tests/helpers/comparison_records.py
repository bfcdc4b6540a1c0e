"""Records of comparison runs with hand-made curves."""

from typing import Any

from textanchor.experiment.columns import pack_flags, pack_numbers
from textanchor.records import RunRecord

STEPS = (0, 1, 2, 4)


def entry(new: float, old: float, *, shift: float = 0.0) -> dict[str, Any]:
    """Nats of both new items and of the two items of each of two old tasks; validation stands first."""
    column = {"gold_nats": pack_numbers([old, old + shift]), "correct": pack_flags([old < 1, old < 1])}
    return {
        "tasks": {
            "digits": {"gold_nats": pack_numbers([new, new]), "correct": pack_flags([new < 1, new < 1])},
            "color": column,
            "count": column,
        }
    }


def record(
    arm: str,
    points: list[tuple[float, float]],
    *,
    strength: str = "",
    seed: int = 0,
    shift: float = 0.0,
    needs: str = "nothing",
    **extra: Any,
) -> RunRecord:
    """A run whose points are (nats on the new task, nats on the old ones); `shift` moves the old test items."""
    curve = [
        {"step": step, **entry(new, old, shift=shift if step else 0.0)}
        for step, (new, old) in zip(STEPS, points, strict=False)
    ]
    hashes = {name: name for name in ("code", "model", "digits", "color", "count", "text")}
    return RunRecord(
        name=f"{arm}__{strength}__s{seed}",
        method="full",
        seed=seed,
        config={"model": "tiny"},
        hashes=hashes,
        cost={"seconds": 60.0},
        extra={
            "cell": {
                "arm": arm,
                "strength": strength,
                "rate": "x1",
                "task": "digits",
                "new": "digits",
                "retained": ["color", "count"],
                "needs": needs,
                "trains_language": False,
            },
            "items": {task: {"validation": ["a"], "test": ["b"]} for task in ("digits", "color", "count")},
            "text_tokens": [10],
            "curve": curve,
            **extra,
        },
    )
