"""One held linear as plain data, and the matrix X that its rule works on.

Notable:
- X has its rows in the filtered space: [W | b] for inputs, its transpose for outputs;
- a LoRA update is Delta = s C^T X with X = A, C = B^T for inputs and X = B^T, C = A for outputs; it starts at 0, so it
  needs no reference;
- mode coupling filters both ends: X is that of the inputs, and `across` filters the outputs, which are the index of its
  rows.

Shape legend: R rows of X, D width of the filtered space, O outputs, I inputs of the weight (and the bias).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from textanchor.errors import HoldError
from textanchor.holds.filter import FilterConfig
from textanchor.holds.norm_sketch import random_signs, saves_memory
from textanchor.holds.rules import Reference, decay_factor
from textanchor.holds.targets import Target, base_hash, norms
from textanchor.spectral import Subspace
from textanchor.spectral.precision import precise

BLOCK_ELEMENTS = 2**20

Side = Literal["in", "out"]
Block = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldLinear:
    """Which tensors of one linear are held, in which directions, by which rule and against which reference."""

    name: str
    """Base name of the linear."""
    tensors: tuple[str, ...]
    """(weight) or (weight, bias); of a LoRA update (lora_A, lora_B)."""
    is_lora: bool
    scaling: float
    """Factor of the LoRA update; 1 for a weight."""
    side: Side
    subspace: Subspace
    across: Subspace | None
    """Filter on the other side under mode coupling; None where all of it is meant."""
    config: FilterConfig
    reference: Reference | None
    """What the rule needs of X0 (under target remove: of X0 without its protected part); None for a LoRA update, which
    starts at 0."""
    is_text_writer: bool
    """Whether the filter is on text space itself, which this linear writes to."""
    base: Tensor | None
    """All of X0 for the audit, where it is small and not the reference already."""
    base_sketch: Tensor | None
    """(R, S) products of X0 with random signs (see `norm_sketch.py`), where no more of it is kept."""
    base_hash: str
    """Hash of the weight (and trained bias) before training."""
    base_norm: float | None
    """Frobenius norm of the weight (and trained bias) before training; None where it is quantised."""
    base_rms: float | None
    """Root mean square of the entries of the weight before training."""

    def factor_of_decay(self, lr: float | None) -> float:
        """The c of `decay` for a step of size lr."""
        assert lr is not None and self.config.strength is not None and self.base_rms is not None
        return decay_factor(float(lr), self.config.strength / self.base_rms)


def held_linear(
    target: Target,
    side: Side,
    subspace: Subspace,
    config: FilterConfig,
    parameters: Mapping[str, Tensor],
    *,
    across: Subspace | None = None,
    is_text_writer: bool,
    keep_base: bool,
) -> HeldLinear:
    """Hold a linear as it is now; `keep_base` keeps its weights whole for the audit. HoldError for undefined decay."""
    base_norm, base_rms = norms(target, parameters)
    if not base_rms and (config.hold == "decay" or config.norm_cap is not None):
        option = "decay" if config.hold == "decay" else "norm_cap"
        what = "is quantised" if base_rms is None else "is zero"
        raise HoldError(
            f"{target.name}: {option} is relative to the weight, which {what}; use hold='exact' or 'share' without "
            "norm_cap"
        )
    tensors = tuple(parameters[name].detach() for name in target.tensors)
    reference = base = base_sketch = None
    if not target.is_lora:
        x_RD = start_matrix(tensors, side, subspace, across, config)
        if across is None:
            reference = Reference.of(x_RD, subspace, needs_all=config.needs_whole_start)
        else:
            reference = Reference.of_pairs(x_RD, across, subspace, needs_all=config.needs_whole_start)
        if not reference.is_full and (keep_base or not saves_memory(subspace.width, x_RD.dtype)):
            base = x_RD
        elif not reference.is_full:
            wide_RD = x_RD.to(precise(x_RD.device))
            base_sketch = wide_RD @ random_signs(subspace.width, wide_RD)
    return HeldLinear(
        name=target.name,
        tensors=target.tensors,
        is_lora=target.is_lora,
        scaling=target.scaling,
        side=side,
        subspace=subspace,
        across=across,
        config=config,
        reference=reference,
        is_text_writer=is_text_writer,
        base=base,
        base_sketch=base_sketch,
        base_hash=base_hash(target, parameters),
        base_norm=base_norm,
        base_rms=base_rms,
    )


def start_matrix(
    tensors: tuple[Tensor, ...], side: Side, subspace: Subspace, across: Subspace | None, config: FilterConfig
) -> Tensor:
    """X0 of a full weight (and bias) before training: what changes count from."""
    x_RD = matrix(tensors, side)
    if config.target == "remove":
        x_RD = x_RD - protected(x_RD.to(precise(x_RD.device)), subspace, across).to(x_RD)
    return x_RD


def protected(x_RD: Tensor, subspace: Subspace, across: Subspace | None) -> Tensor:
    """P_across x P, the protected part of a matrix."""
    part_RD = subspace.protected(x_RD)
    return part_RD if across is None else across.protected(part_RD.T).T


def matrix_blocks(tensors: tuple[Tensor, ...], side: Side, is_lora: bool) -> Iterator[Block]:
    """Views on the rows of X; the tensors of a block stand beside each other."""
    first, second = tensors[0], tensors[1] if len(tensors) > 1 else None
    if is_lora:
        assert second is not None
        yield (first,) if side == "in" else (second.T,)
        return
    rows_RD = first if side == "in" else first.T
    num_rows = max(1, BLOCK_ELEMENTS // rows_RD.shape[1])
    for start in range(0, len(rows_RD), num_rows):
        piece = slice(start, start + num_rows)
        with_bias = side == "in" and second is not None
        yield (rows_RD[piece], second[piece, None]) if with_bias and second is not None else (rows_RD[piece],)
    if side == "out" and second is not None:
        yield (second[None],)


def write_block(block: Block, values_RD: Tensor) -> None:
    """Write values into the views that a block of X consists of, unless they are those views."""
    if len(block) == 1 and block[0].data_ptr() == values_RD.data_ptr():
        return
    for piece, values in zip(block, values_RD.split([piece.shape[1] for piece in block], dim=1), strict=True):
        if piece.data_ptr() != values.data_ptr():
            piece.copy_(values)


def matrix(tensors: tuple[Tensor, ...], side: Side) -> Tensor:
    """A copy of X of a weight and its bias, laid out as X is."""
    columns_OI = torch.cat([tensor.reshape(len(tensor), -1) for tensor in tensors], dim=1)
    return columns_OI if side == "in" else columns_OI.T


def laid_out(x_RD: Tensor, side: Side) -> Tensor:
    """The same values in the order in memory of X, a transposed weight for outputs: to subtract across it is slow."""
    return x_RD.contiguous() if side == "in" else x_RD.T.contiguous().T
