"""Moments of states, the directions they define, and filters made of such directions; torch only."""

from textanchor.spectral.basis import Basis, input_basis, metric_basis, output_basis
from textanchor.spectral.gains import direction_gains, num_selected
from textanchor.spectral.moments import Moments, MomentsStream, sink_bound
from textanchor.spectral.subspace import Subspace

__all__ = [
    "Basis",
    "Moments",
    "MomentsStream",
    "Subspace",
    "direction_gains",
    "input_basis",
    "metric_basis",
    "num_selected",
    "output_basis",
    "sink_bound",
]
