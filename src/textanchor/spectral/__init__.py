"""Moments of states, the directions they define, and filters made of such directions; torch only."""

from textanchor.spectral.basis import Basis, input_basis, metric_basis, output_basis
from textanchor.spectral.controls import bottom_basis, random_basis
from textanchor.spectral.gains import direction_gains, num_selected, num_with_energy
from textanchor.spectral.moments import Moments, MomentsStream, sink_bound
from textanchor.spectral.subspace import Subspace

__all__ = [
    "Basis",
    "Moments",
    "MomentsStream",
    "Subspace",
    "bottom_basis",
    "direction_gains",
    "input_basis",
    "metric_basis",
    "num_selected",
    "num_with_energy",
    "output_basis",
    "random_basis",
    "sink_bound",
]
