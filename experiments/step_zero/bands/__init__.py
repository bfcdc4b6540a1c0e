"""Bands of text space, and what a change of the projector or of the language model does inside and outside of them.

Nothing is trained here: of the difference between a tuned model and its base a part is taken out.
"""

from bands.directions import Band, Bands
from bands.edits import outputs_changed, part_put_back, weights_replaced
from bands.inputs import InputRemoval, LinearUpdate, remove_inputs, remove_leading_inputs
from bands.perturb import random_writing
from bands.removal import Removal, gains_for_share, remove_leading, remove_share

__all__ = [
    "Band",
    "Bands",
    "InputRemoval",
    "LinearUpdate",
    "Removal",
    "gains_for_share",
    "outputs_changed",
    "part_put_back",
    "random_writing",
    "remove_inputs",
    "remove_leading",
    "remove_leading_inputs",
    "remove_share",
    "weights_replaced",
]
