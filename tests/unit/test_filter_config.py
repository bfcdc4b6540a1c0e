"""FilterConfig: an option without effect, or out of range, is an error; defaults are filled in."""

import pytest

from textanchor.config import from_dict, to_dict
from textanchor.errors import ConfigError
from textanchor.holds import FilterConfig

BAD = {
    "no amount": {"mode": "outputs"},
    "two amounts": {"mode": "outputs", "num_kept": 4, "kept_energy": 0.5},
    "zero directions": {"mode": "outputs", "num_kept": 0},
    "more than all energy": {"mode": "outputs", "kept_energy": 1.5},
    "no fraction": {"mode": "outputs", "kept_fraction": 0.0},
    "soft gains under exact": {"mode": "outputs", "num_kept": 4, "gains": "ridge"},
    "parameter of top": {"mode": "outputs", "num_kept": 4, "gain_parameter": 2.0},
    "negative parameter": {"mode": "outputs", "num_kept": 4, "gains": "ridge", "gain_parameter": -1.0, "hold": "decay"},
    "share without share": {"mode": "outputs", "num_kept": 4, "share": 0.2},
    "negative share": {"mode": "outputs", "num_kept": 4, "hold": "share", "share": -0.1},
    "strength of exact": {"mode": "outputs", "num_kept": 4, "strength": 2.0},
    "strength of zero": {"mode": "outputs", "num_kept": 4, "hold": "decay", "strength": 0.0},
    "inner of inputs": {"mode": "inputs", "num_kept": 4, "inner": "frozen"},
    "inner of a penalty": {"mode": "outputs", "num_kept": 4, "hold": "penalty", "inner": "pullback"},
    "unknown mode": {"mode": "sideways", "num_kept": 4},
    "unknown basis": {"mode": "outputs", "num_kept": 4, "basis": "hidden:last"},
    "outputs of inputs": {"mode": "inputs", "num_kept": 4, "basis": "visual"},
    "inputs of outputs": {"mode": "outputs", "num_kept": 4, "basis": "inputs"},
    "amount of identity": {"mode": "inputs", "num_kept": 4, "basis": "identity", "hold": "decay"},
    "exact identity": {"mode": "inputs", "basis": "identity"},
    "share of identity": {"mode": "outputs", "basis": "identity", "hold": "share"},
    "outside of identity": {"mode": "manifold", "basis": "identity", "hold": "decay"},
    "pairs of identity": {"mode": "coupling", "basis": "identity", "hold": "decay"},
    "pullback of identity": {"mode": "outputs", "basis": "identity", "hold": "decay", "inner": "pullback"},
    "gains of the bottom": {"mode": "outputs", "num_kept": 4, "basis": "bottom", "hold": "decay", "gains": "ridge"},
    "energy of pairs": {"mode": "coupling", "num_kept": 4, "basis": "random_energy"},
    "seed of no chance": {"mode": "outputs", "num_kept": 4, "basis_seed": 1},
    "removed inputs": {"mode": "inputs", "num_kept": 4, "target": "remove"},
    "removed by pullback": {"mode": "outputs", "num_kept": 4, "target": "remove", "inner": "pullback"},
    "removed in part": {"mode": "outputs", "num_kept": 4, "target": "remove", "hold": "decay", "gains": "ridge"},
    "projected gradients of a share": {"mode": "outputs", "num_kept": 4, "hold": "share", "gradients": "projected"},
    "no norm": {"mode": "outputs", "num_kept": 4, "norm_cap": 0.0},
    "norm of a function": {"mode": "outputs", "num_kept": 4, "hold": "penalty", "norm_cap": 0.1},
}


@pytest.mark.parametrize("options", BAD.values(), ids=BAD)
def test_bad_options_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError):
        from_dict(FilterConfig, options)


def test_defaults_are_those_of_the_rule_and_survive_a_round_trip() -> None:
    share = FilterConfig(mode="outputs", num_kept=4, hold="share")
    decay = FilterConfig(mode="outputs", num_kept=4, hold="decay", gains="ridge")
    penalty = FilterConfig(mode="manifold", kept_energy=0.9, hold="penalty")
    assert (share.share, share.strength) == (0.1, None)
    assert (decay.strength, decay.gain_parameter) == (100.0, 1.0)
    assert penalty.strength == 10.0
    assert [config.rule() for config in (share, decay, penalty)] == ["share 0.1", "decay 100", "penalty 10"]
    assert (share.basis, FilterConfig(mode="inputs", num_kept=4).basis) == ("text_embedding", "inputs")
    random = FilterConfig(mode="coupling", num_kept=4, basis="random")
    assert random.basis_seed == 0
    for config in (share, decay, penalty, random, FilterConfig(mode="inputs", kept_fraction=0.3)):
        assert from_dict(FilterConfig, to_dict(config)) == config
