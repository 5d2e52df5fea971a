"""Trunk `resnet_small`: ResNet-18 or -34 for images of 32 to 64 pixels.

3x3 stem with stride 1 and no max-pool, as the published CIFAR recipes; features have
the names that the host's evaluation asks for, the last one `8 * WIDTH` wide.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from vissl.models.model_helpers import (
    Flatten,
    get_trunk_forward_outputs,
    transform_model_input_data_type,
)
from vissl.models.trunks import register_model_trunk

from vissl_swav.host import settings

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_LEAST_WIDTH_FOR_CHANNELS_LAST = 16
_FEATURES = {
    "conv1": "conv1_relu",
    "res2": "layer1",
    "res3": "layer2",
    "res4": "layer3",
    "res5": "layer4",
    "res5avg": "avgpool",
    "flatten": "flatten",
}


@register_model_trunk("resnet_small")
class ResNetSmall(nn.Module):
    """Settings: `MODEL.TRUNK.RESNET_SMALL: {DEPTH: 18 | 34, WIDTH: 64}`."""

    def __init__(self, model_config: Any, model_name: str):
        super().__init__()
        self.model_config = model_config
        shape = settings.small_resnet(model_config)
        depth, width = shape["depth"], shape["width"]
        self._layout = torch.contiguous_format
        channels = 1 if model_config.INPUT_TYPE in ("lab", settings.GREY) else 3
        layers = [_layer(width, width, _BLOCKS[depth][0], stride=1)]
        for level in range(1, 4):
            inner, outer = width * 2 ** (level - 1), width * 2**level
            layers.append(_layer(inner, outer, _BLOCKS[depth][level], stride=2))
        self._feature_blocks = nn.ModuleDict(
            {
                "conv1": nn.Conv2d(channels, width, 3, padding=1, bias=False),
                "bn1": nn.BatchNorm2d(width),
                "conv1_relu": nn.ReLU(inplace=True),
                **{f"layer{i + 1}": layer for i, layer in enumerate(layers)},
                "avgpool": nn.AdaptiveAvgPool2d(1),
                "flatten": Flatten(1),
            }
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        # Nets of some width run several times faster on a CPU in this layout. Narrower
        # ones end the process from 64 pixels on, in the backward pass of a 1x1
        # convolution with stride 2 (oneDNN 3.12 with AVX-512, torch 2.13).
        if width >= _LEAST_WIDTH_FOR_CHANNELS_LAST:
            self._layout = torch.channels_last
        self.to(memory_format=self._layout)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Tensor, out_feat_keys: Sequence[str] = ()) -> list[Tensor]:
        """Images (B, C, H, W) -> the features asked for, the flat last one if none."""
        images = transform_model_input_data_type(x, self.model_config.INPUT_TYPE)
        images = images.contiguous(memory_format=self._layout)
        checkpointing = self.model_config.ACTIVATION_CHECKPOINTING
        return get_trunk_forward_outputs(
            feat=images,
            out_feat_keys=list(out_feat_keys or ("flatten",)),
            feature_blocks=self._feature_blocks,
            feature_mapping=_FEATURES,
            use_checkpointing=checkpointing.USE_ACTIVATION_CHECKPOINTING,
            checkpointing_splits=checkpointing.NUM_ACTIVATION_CHECKPOINTING_SPLITS,
        )


def _layer(inner: int, outer: int, num_blocks: int, *, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1 or inner != outer:
        shortcut = nn.Sequential(
            nn.Conv2d(inner, outer, 1, stride=stride, bias=False), nn.BatchNorm2d(outer)
        )
    blocks = [BasicBlock(inner, outer, stride, shortcut)]
    blocks += [BasicBlock(outer, outer) for _ in range(num_blocks - 1)]
    return nn.Sequential(*blocks)
