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
    for config in (share, decay, penalty, FilterConfig(mode="inputs", kept_fraction=0.3)):
        assert from_dict(FilterConfig, to_dict(config)) == config
