"""Modes of the language model that hold what is written to the residual stream: only the writers train, and are
held.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_runs import run_config
from textanchor.data.texts import read_texts
from textanchor.errors import ConfigError, HoldError
from textanchor.holds import Anchor, FilterConfig, fit_anchor
from textanchor.holds.legal import held_text_linears
from textanchor.spectral import input_basis, output_basis
from textanchor.training.adapt import AdaptResult, adapt

NUM_TEXTS, NUM_KEPT, STEPS = 8, 8, 50
MODES = ("outputs", "manifold", "coupling")
TRAINED: dict[str, dict[str, Any]] = {
    "lora": {"train": "lora", "learning_rate": 1e-2, "rank": 4},
    "full": {"train": "full", "learning_rate": 1e-3},
    "attention": {"train": "full", "learning_rate": 1e-3, "only": "attention"},
}
LAYERS = "model.language_model.layers"
WRITERS = [f"{LAYERS}.{i}.{name}" for i in (0, 1) for name in ("self_attn.o_proj", "mlp.down_proj")]
READERS = [f"{LAYERS}.{i}.{name}" for i in (0, 1) for name in ("self_attn.q_proj", "mlp.up_proj")]


def run(output: Path, mode: str, train: str, **changes: Any) -> AdaptResult:
    held = {"mode": mode, "num_kept": NUM_KEPT}
    method = {"name": "app", "language_model": held, "num_texts": NUM_TEXTS}
    parts = {"projector": {"train": "frozen"}, "language_model": TRAINED[train]}
    config = run_config(output, method=method, parts=parts, training__max_steps=STEPS, **changes)
    model, processor = tiny_llava_with_processor()
    return adapt(config, model=model, processor=processor)


@pytest.fixture(scope="module")
def start() -> dict[str, Tensor]:
    return tiny_llava_with_processor()[0].state_dict()


@pytest.fixture(scope="module")
def anchor() -> Anchor:
    """Fitted here too, on the same texts, so that the directions are not taken from the plan that is tested."""
    return fit_anchor(*tiny_llava_with_processor(), read_texts(None, NUM_TEXTS))


def protected(mode: str, name: str, delta_OI: Tensor, anchor: Anchor) -> Tensor:
    """P_out Delta P_in by the definition of the mode."""
    written_OK = output_basis(anchor["text_embedding"]).directions_DK[:, :NUM_KEPT]
    within_OI = written_OK @ (written_OK.T @ delta_OI)
    if mode == "outputs":
        return within_OI
    if mode == "manifold":
        return delta_OI - within_OI
    basis = input_basis(anchor[f"inputs/{name}"], with_constant=False)
    read_IK = basis.directions_DK[:, : basis.num_sinks + NUM_KEPT]
    return within_OI @ read_IK @ read_IK.T


@pytest.mark.parametrize("train", TRAINED)
@pytest.mark.parametrize("mode", MODES)
def test_only_writers_train_and_their_protected_part_stays(
    mode: str, train: str, start: dict[str, Tensor], anchor: Anchor, tmp_path: Path
) -> None:
    result = run(tmp_path / "out", mode, train)
    now = result.model.state_dict()
    expected = [name for name in WRITERS if train != "attention" or "self_attn" in name]
    moved = {name for name, tensor in now.items() if not torch.equal(tensor, start[name])}
    assert moved == {f"{name}.weight" for name in expected}
    for name in expected:
        delta_OI = (now[f"{name}.weight"] - start[f"{name}.weight"]).double()
        assert delta_OI.norm() > 0.05 * start[f"{name}.weight"].norm()
        assert protected(mode, name, delta_OI, anchor).norm() < 1e-5 * delta_OI.norm()
    assert result.plan is not None
    rows = {row.name: row for row in result.plan.tensors}
    for name in READERS:
        row = rows[f"{name}.weight"]
        assert (row.rule, f"mode {mode} holds writers" in row.why) == ("frozen", True), row
    assert f"mode {mode} holds writers to the residual stream, and trains no others" in str(result.plan)


def test_non_writers_get_no_adapter_and_the_adapter_loads_on_the_base(tmp_path: Path) -> None:
    run(tmp_path / "out", "outputs", "lora", export="peft")
    names = (tmp_path / "out" / "adapter_config.json").read_text()
    assert all(name.removeprefix("model.") in names for name in WRITERS)
    assert not any(name.rpartition(".")[2] in names for name in READERS)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (
            {"mode": "outputs", "inner": "pullback"},
            "language_model: inner='pullback' is legal for the projector.*set inner='frozen'",
        ),
        ({"mode": "outputs", "target": "remove"}, "language_model: target='remove' is legal for the last projector"),
        ({"mode": "outputs", "hold": "penalty"}, "hold='penalty' .* not for the language_model with"),
    ],
)
def test_what_no_language_model_can_have_is_refused_before_anything_is_loaded(
    held: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"method app: {message}"):
        run_config(tmp_path / "out", method={"name": "app", "language_model": held | {"num_kept": 4}})


def test_a_language_model_without_known_writers_is_refused() -> None:
    config = FilterConfig(mode="outputs", num_kept=4)
    with pytest.raises(HoldError, match=r"o_proj.*none of them is trained, but q_proj, wo; .*mode='inputs'"):
        held_text_linears(config, ["layers.0.q_proj", "layers.1.q_proj", "layers.0.wo"])
    assert held_text_linears(FilterConfig(mode="inputs", num_kept=4), ["layers.0.wo"]) == ["layers.0.wo"]
