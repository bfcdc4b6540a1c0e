"""Rows of a plan: what becomes of the tensors of one held linear."""

from textanchor.holds.entries import COVERED, HeldTensor
from textanchor.holds.filter import FilterConfig
from textanchor.holds.linear import Side
from textanchor.holds.targets import Target
from textanchor.spectral import Subspace


def rows_of(
    target: Target,
    side: Side,
    subspace: Subspace,
    config: FilterConfig,
    part: str,
    *,
    across: Subspace | None = None,
    prefix: str = "",
) -> list[HeldTensor]:
    """What becomes of each trained tensor of a held linear."""
    why = prefix + config.describe(subspace, across)

    def row(name: str, rule: str, why: str) -> HeldTensor:
        return HeldTensor(name=name, part=part, rule=rule, why=why)

    if not target.is_lora:
        return [row(name, config.rule(), why) for name in target.tensors]
    if across is not None:
        lora_a, lora_b = target.tensors
        return [
            row(lora_a, config.rule(), f"{why}; second half of the rank"),
            row(lora_b, config.rule(), f"{why}; first half of the rank"),
        ]
    held, other = target.tensors if side == "in" else target.tensors[::-1]
    letter = "lora_A" if side == "in" else "lora_B"
    return [row(held, config.rule(), why), row(other, COVERED, f"held through {letter}, whatever this one is")]
