"""Baselines end to end: what the run leaves is what the method says."""

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.tiny_llava import tiny_llava_with_processor
from helpers.tiny_runs import run_config
from textanchor.data.tasks import load_conversations
from textanchor.errors import DataError
from textanchor.training.adapt import AdaptResult, adapt
from textanchor.training.collate import Collator
from textanchor.training.curve import CheckpointScorer
from textanchor.training.export import logits_of
from textanchor.training.sequences import encode

FULL = {"train": "full", "learning_rate": 1e-3}
OSF: dict[str, Any] = {"parts": {"projector": FULL, "language_model": FULL}}


def run(output: Path, method: dict[str, Any], *callbacks: Any, seed: int = 0, **changes: Any) -> AdaptResult:
    model, processor = tiny_llava_with_processor(seed=seed)
    return adapt(run_config(output, method=method, **changes), model=model, processor=processor, callbacks=callbacks)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> AdaptResult:
    return run(tmp_path_factory.mktemp("plain") / "out", {"name": "full"})


def part_norms(result: AdaptResult) -> dict[str, float]:
    start = tiny_llava_with_processor()[0].state_dict()
    squares = {"projector": 0.0, "language_model": 0.0}
    for row in result.audit.tensors:
        part = "projector" if "projector" in row.name else "language_model"
        squares[part] += float((result.model.state_dict()[row.name] - start[row.name]).square().sum())
    return {part: square**0.5 for part, square in squares.items()}


def test_zero_shot_leaves_the_model_as_it_was_and_scores_it(tmp_path: Path) -> None:
    scorer = CheckpointScorer([0, 6], lambda model, _: {"mode": float(model.training)})
    result = run(tmp_path / "out", {"name": "zero_shot"}, scorer, parts=None)
    for name, tensor in tiny_llava_with_processor()[0].state_dict().items():
        assert torch.equal(result.model.state_dict()[name], tensor), name
    assert result.audit.tensors == ()
    assert result.record.extra["curve"] == [{"step": 0, "mode": 0.0}]
    assert result.record.extra["loss"] == []
    assert result.record.hashes["model"] == result.record.hashes["tuned"]


def test_wise_ft_lies_between_start_and_end(plain: AdaptResult, tmp_path: Path) -> None:
    result = run(tmp_path / "out", {"name": "wise_ft", "alpha": 0.3})
    start, end = tiny_llava_with_processor()[0].state_dict(), plain.model.state_dict()
    for name, tensor in result.model.state_dict().items():
        assert torch.allclose(tensor, 0.7 * start[name] + 0.3 * end[name], atol=1e-6), name
    assert part_norms(plain)["language_model"] > 0.1


def test_the_update_is_brought_to_a_share_of_the_weights(plain: AdaptResult, tmp_path: Path) -> None:
    result = run(tmp_path / "out", {"name": "norm_matched", "relative_norm": 0.05})
    start = tiny_llava_with_processor()[0].state_dict()
    for part, norm in part_norms(result).items():
        names = [row.name for row in result.audit.tensors if ("projector" in row.name) == (part == "projector")]
        weights = sum(float(start[name].square().sum()) for name in names) ** 0.5
        assert norm == pytest.approx(0.05 * weights, rel=1e-4)
    name = "model.multi_modal_projector.linear_1.weight"
    deltas = [r.model.state_dict()[name] - start[name] for r in (result, plain)]
    assert torch.cosine_similarity(*(delta.flatten() for delta in deltas), dim=0) > 1 - 1e-5


def test_the_update_is_brought_to_the_norms_of_another_run(tmp_path: Path) -> None:
    other = run(tmp_path / "other", {"name": "l2sp", "strength": 5.0}, training__max_steps=3)
    result = run(tmp_path / "out", {"name": "norm_matched", "run": str(tmp_path / "other")})
    assert part_norms(result) == pytest.approx(part_norms(other), rel=1e-4)
    method = {"name": "norm_matched", "run": str(tmp_path / "other")}
    with pytest.raises(DataError, match="another model"):
        run(tmp_path / "seed", method, seed=1)
    with pytest.raises(DataError, match="which this one does not"):
        run(tmp_path / "parts", method, parts__language_model={"train": "frozen"})


def test_replay_trains_on_old_items_too(plain: AdaptResult, tmp_path: Path) -> None:
    result = run(tmp_path / "out", {"name": "replay", "old": {"tasks": ["color"], "num_images": 4}})
    assert result.record.hashes["data"] != plain.record.hashes["data"]
    assert result.record.hashes["model"] == plain.record.hashes["model"]


def test_osf_is_merged_into_plain_weights(tmp_path: Path) -> None:
    results = {p: run(tmp_path / p, {"name": "osf", "project": p}, **OSF) for p in ("gradient", "step")}
    start = tiny_llava_with_processor()[0].state_dict()
    shares = {}
    for project, result in results.items():
        name = "model.language_model.layers.0.mlp.up_proj.weight"
        delta = (result.model.state_dict()[name] - start[name]).double()
        u_OR, _, _ = torch.linalg.svd(start[name].double())
        shares[project] = float((u_OR[:, :16].T @ delta).norm() / delta.norm())
        assert {row.name.rpartition(".")[2] for row in result.audit.tensors} == {"weight"}
        moved = {n for n, tensor in result.model.state_dict().items() if not torch.equal(tensor, start[n])}
        assert moved == {row.name for row in result.audit.tensors}
    assert shares["gradient"] > 0.05
    assert shares["step"] < 1e-4  # of a small update, whose float32 rounding in the weight this is


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> AdaptResult:
    return run(tmp_path_factory.mktemp("longer") / "out", {"name": "full"}, training__max_steps=16)


PENALTIES: dict[str, dict[str, Any]] = {
    "lwf": {"name": "lwf", "strength": 30.0},
    "ewc": {"name": "ewc", "strength": 1e4, "num_texts": 4},
    "kfac": {"name": "ewc", "strength": 1e4, "num_texts": 4, "fisher": "kfac"},
    "lorasculpt": {"name": "lorasculpt", "projector_strength": 3.0, "language_model_strength": 3.0},
}


@pytest.mark.parametrize("name", PENALTIES)
def test_a_strong_penalty_holds_the_model_back(name: str, longer: AdaptResult, tmp_path: Path) -> None:
    result = run(tmp_path / "out", PENALTIES[name], training__max_steps=16)
    models = [tiny_llava_with_processor()[0], longer.model, result.model]
    batch = Collator(0)([encode(c, result.processor) for c in load_conversations("shape", split="train", num_images=8)])
    before, free, held = (logits_of(model, batch).log_softmax(-1) for model in models)
    assert (held - before).norm() < 0.97 * (free - before).norm()
