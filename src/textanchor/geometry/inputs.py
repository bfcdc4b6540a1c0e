"""What every measure asks of its inputs: shape, finite values, enough tokens. Otherwise DataError, never a score."""

import torch
from torch import Tensor

from textanchor.errors import DataError


def as_states(states_ND: Tensor, name: str = "states", *, least: int = 1) -> Tensor:
    """The states on the CPU in float64; DataError where they are no (N >= `least`, D) table of finite numbers."""
    if states_ND.ndim != 2 or 0 in states_ND.shape:
        raise DataError(f"{name}: expected a table of shape (tokens, width), found {tuple(states_ND.shape)}")
    if len(states_ND) < least:
        raise DataError(f"{name}: this measure needs at least {least} tokens, found {len(states_ND)}; gather more")
    if not states_ND.is_floating_point():
        raise DataError(f"{name}: expected floating-point states, found {states_ND.dtype}")
    x_ND = states_ND.detach().to("cpu", torch.float64)
    is_finite_N = torch.isfinite(x_ND).all(dim=1)
    if not is_finite_N.all():
        raise DataError(
            f"{name}: {int((~is_finite_N).sum())} of {len(x_ND)} tokens have values that are not finite; "
            "run the model in float32, and check that its weights and inputs are sound"
        )
    return x_ND


def as_pair(first_ND: Tensor, second_ND: Tensor, *, least: int = 1, same_width: bool = False) -> tuple[Tensor, Tensor]:
    """Two tables whose rows belong together; DataError where the numbers of rows (or the widths) differ."""
    first_ND, second_ND = as_states(first_ND, "first", least=least), as_states(second_ND, "second", least=least)
    if len(first_ND) != len(second_ND):
        raise DataError(
            f"this measure pairs row by row, but the first table has {len(first_ND)} rows and the second "
            f"{len(second_ND)}; give the same items in the same order"
        )
    if same_width:
        require_same_width(first_ND.shape[1], second_ND.shape[1])
    return first_ND, second_ND


def require_same_width(first: int, second: int) -> None:
    """DataError where two samples do not lie in one space."""
    if first != second:
        raise DataError(f"both samples must lie in one space, but their widths are {first} and {second}")


def require_more_tokens_than_width(count: float, width: int, name: str = "states") -> None:
    """DataError where a covariance cannot have full rank, so that its spectrum shows the number of tokens instead."""
    if count <= width:
        raise DataError(
            f"{name}: {count:g} tokens of width {width} cannot fill their space, so this measure would report the "
            f"number of tokens; gather more than {width} tokens"
        )


def unit_rows(x_ND: Tensor, name: str = "states") -> Tensor:
    """Every row at length 1; DataError where a row is all zeros, because it has no direction."""
    norms_N = torch.linalg.vector_norm(x_ND, dim=1)
    if not norms_N.all():
        raise DataError(
            f"{name}: {int((norms_N == 0).sum())} of {len(x_ND)} tokens are all zeros and have no direction; "
            "leave them out (padding is the usual cause)"
        )
    return x_ND / norms_N[:, None]
