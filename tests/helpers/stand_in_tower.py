"""A vision tower for the families whose own comes from timm, which is not installed: one convolution over patches.

Importing this module puts it into Transformers' mapping, so that their configurations build and load it.
"""

from typing import Any

from torch import Tensor, nn
from transformers import AutoModel, Gemma3nVisionConfig, PreTrainedModel, TimmWrapperConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling

PATCH = 8


class StandInTower(PreTrainedModel):
    """States stay a map (B, D, H, W), or become rows (B, N, D) where the family says its width in `model_args`."""

    config_class = TimmWrapperConfig
    main_input_name = "pixel_values"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.as_rows = bool(config.model_args)
        self.patches = nn.Conv2d(3, config.hidden_size, PATCH, PATCH)
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        states = self.patches(pixel_values)
        return BaseModelOutputWithPooling(last_hidden_state=states.flatten(2).mT if self.as_rows else states)


class Gemma3nStandInTower(StandInTower):
    config_class = Gemma3nVisionConfig


AutoModel.register(TimmWrapperConfig, StandInTower, exist_ok=True)
AutoModel.register(Gemma3nVisionConfig, Gemma3nStandInTower, exist_ok=True)
