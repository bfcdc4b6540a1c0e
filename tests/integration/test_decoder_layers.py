"""The decoder layers of every family that has image positions, and a refusal of the others."""

import pytest

from helpers.tiny_families import TINY
from helpers.tiny_models import tiny_vlm
from textanchor.errors import ModelError
from textanchor.vlm.layers import decoder_layers
from textanchor.vlm.parts import find_parts

WITHOUT_POSITIONS = {"mllama": "cross-attention", "florence2": "2 lists of layers"}


@pytest.mark.parametrize("family", sorted(TINY.keys() - WITHOUT_POSITIONS.keys()))
def test_layers_are_found_in_order(family: str) -> None:
    parts = find_parts(tiny_vlm(family))
    names = decoder_layers(parts)
    assert [name.rpartition(".")[2] for name in names] == ["0", "1"]
    assert all(name.startswith(parts.language_model) for name in names)


@pytest.mark.parametrize(("family", "why"), WITHOUT_POSITIONS.items())
def test_models_without_image_positions_are_refused(family: str, why: str) -> None:
    with pytest.raises(ModelError, match=why):
        decoder_layers(find_parts(tiny_vlm(family)))
