"""What is trained is what the configuration says, and nothing else."""

import pytest
import torch

from helpers.tiny_models import tiny_vlm
from textanchor.errors import ConfigError, ModelError
from textanchor.training.config import PartConfig, PartsConfig
from textanchor.training.method import load_method
from textanchor.training.trainable import num_trained, set_up_training, trained_parameters
from textanchor.training.updates import StartWeights

FROZEN, FULL, LORA = (PartConfig(train=train) for train in ("frozen", "full", "lora"))


def test_the_default_trains_the_projector_and_lora_on_the_language_model() -> None:
    parts = set_up_training(tiny_vlm("llava"), PartsConfig(), seed=0)
    trained = trained_parameters(parts.model)
    projector = {name for name in trained if "multi_modal_projector" in name}
    assert projector == set(parts.projector_tensors)
    assert {name.split(".lora_")[0] for name in trained.keys() - projector} == set(parts.text_linears())
    assert num_trained(parts)["vision_tower"] == 0


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_projector_inside_the_tower_is_trained_without_it(family: str) -> None:
    parts = set_up_training(tiny_vlm(family), PartsConfig(language_model=FROZEN), seed=0)
    assert set(trained_parameters(parts.model)) == set(parts.projector_tensors)
    assert all("merger" in name for name in parts.projector_tensors)


def test_lora_goes_on_linears_of_the_named_part_alone() -> None:
    config = PartsConfig(projector=LORA, language_model=FROZEN, vision_tower=PartConfig(train="lora", rank=2))
    parts = set_up_training(tiny_vlm("llava"), config, seed=0)
    trained = trained_parameters(parts.model)
    assert {parts.part_of(name) for name in trained} == {"projector", "vision_tower"}
    assert all(".lora_" in name for name in trained)
    ranks = {
        part: {t.shape[0] for n, t in trained.items() if parts.part_of(n) == part and "lora_A" in n}
        for part in ("projector", "vision_tower")
    }
    assert ranks == {"projector": {16}, "vision_tower": {2}}


@pytest.mark.parametrize(
    ("method", "rank", "told"),
    [
        ("lora", 33, r"parts\.language_model\.rank is 33, but the widest linear of this part has rank 32 at most"),
        ("lora", 10**18, r"parts\.language_model\.rank is 1,000,000,000,000,000,000, but"),
        ("corda", 17, r"parts\.language_model\.rank is 17, but the narrowest linear of this part has rank 16 at most"),
        ("lora_null", 17, r"parts\.language_model\.rank is 17, but the narrowest linear of this part has rank 16"),
    ],
)
def test_a_rank_that_no_weight_has_is_refused_before_it_is_made(method: str, rank: int, told: str) -> None:
    config = PartsConfig(projector=FROZEN, language_model=PartConfig(train="lora", rank=rank))
    with pytest.raises(ConfigError, match=told):
        set_up_training(tiny_vlm("llava"), config, seed=0, method=load_method({"name": method}))


def test_full_language_model_training_takes_embedding_and_head() -> None:
    parts = set_up_training(tiny_vlm("llava"), PartsConfig(projector=FROZEN, language_model=FULL), seed=0)
    assert set(trained_parameters(parts.model)) == set(parts.parameters_of("language_model"))
    assert "lm_head.weight" in trained_parameters(parts.model)


def test_lora_depends_on_the_seed_alone() -> None:
    def first_a(seed: int) -> torch.Tensor:
        torch.rand(3)
        parts = set_up_training(tiny_vlm("llava"), PartsConfig(), seed=seed)
        return next(p for name, p in trained_parameters(parts.model).items() if "lora_A" in name).detach()

    assert torch.equal(first_a(1), first_a(1))
    assert not torch.equal(first_a(1), first_a(2))


def test_updates_start_at_zero_and_are_those_of_the_merged_weight() -> None:
    model = tiny_vlm("llava")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parts = set_up_training(model, PartsConfig(), seed=0)
    start = StartWeights(parts)
    assert all(update.delta.norm() == 0 for update in start.updates())
    with torch.no_grad():
        for parameter in trained_parameters(parts.model).values():
            parameter += 0.01 * torch.randn_like(parameter)
    updates = {update.name: update for update in start.updates()}
    merged = parts.model.merge_and_unload().state_dict()  # pyright: ignore[reportCallIssue]
    moved = {name for name, tensor in merged.items() if not torch.equal(tensor, before[name])}
    assert moved == set(updates)
    for name, update in updates.items():
        assert torch.allclose(update.delta, merged[name] - before[name], atol=1e-6)
        assert update.start_norm == pytest.approx(float(before[name].norm()))


@pytest.mark.parametrize(
    ("family", "config", "dtype", "expected"),
    [
        ("gemma3", PartsConfig(projector=LORA), torch.float32, r"parts\.projector\.train is lora"),
        ("llava", PartsConfig(), torch.bfloat16, "float32 only"),
        ("florence2", PartsConfig(), torch.float32, "encoder-decoder"),
        ("llava", PartsConfig(projector=PartConfig(train="full", path="model.projector")), torch.float32, "projector="),
    ],
)
def test_what_cannot_be_trained_is_refused(family: str, config: PartsConfig, dtype: torch.dtype, expected: str) -> None:
    with pytest.raises(ModelError, match=expected):
        set_up_training(tiny_vlm(family, dtype=dtype), config, seed=0)
