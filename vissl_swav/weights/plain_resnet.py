"""A ResNet built from the shapes of its tensors: any depth, width, groups, channels.

Torch alone, and torchvision's names, so that exported graphs and predictors need
neither VISSL nor torchvision. What leaves no trace in the tensors is taken as in
torchvision: strides (2 in the 3x3 convolution of a bottleneck, in the first of a basic
block), ReLU, epsilon 1e-5. A 7x7 stem has stride 2 and max-pooling, a 3x3 stem stride
1 and none, as for images of 32 pixels.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vissl_swav.weights import resnet_names
from vissl_swav.weights.errors import WeightsError
from vissl_swav.weights.layouts import SOLO_LEARN
from vissl_swav.weights.resnet_shape import resnet_shape

# (width, groups, width of the features) -> name, with the depth.
_WIDTHS = {
    (64, 1, 512): "resnet{}",
    (64, 1, 2048): "resnet{}",
    (128, 1, 2048): "wide_resnet{}_2",
    (128, 32, 2048): "resnext{}_32x4d",
    (256, 32, 2048): "resnext{}_32x8d",
}
_IN_TORCHVISION = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d"),
)


class _Block(nn.Module):
    """Two convolutions, or three (a bottleneck), and a way around them."""

    def __init__(self, weights: Mapping[str, Tensor], prefix: str, stride: int):
        super().__init__()
        self.has_third = f"{prefix}conv3.weight" in weights
        strides = (1, stride, 1) if self.has_third else (stride, 1)
        channels = _inner(weights, prefix + "conv1.weight")
        self.conv1 = _convolution(weights, prefix + "conv1", strides[0], channels)
        self.bn1 = nn.BatchNorm2d(self.conv1.out_channels)
        self.conv2 = _convolution(
            weights, prefix + "conv2", strides[1], self.conv1.out_channels
        )
        self.bn2 = nn.BatchNorm2d(self.conv2.out_channels)
        self.conv3: nn.Module = nn.Identity()
        self.bn3: nn.Module = nn.Identity()
        if self.has_third:
            third = _convolution(weights, prefix + "conv3", 1, self.conv2.out_channels)
            self.conv3, self.bn3 = third, nn.BatchNorm2d(third.out_channels)
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if f"{prefix}downsample.0.weight" in weights:
            way = _convolution(weights, prefix + "downsample.0", stride, channels)
            self.downsample = nn.Sequential(way, nn.BatchNorm2d(way.out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.has_third:
            y = self.bn3(self.conv3(self.relu(y)))
        return self.relu(y + self.downsample(x))


class PlainResNet(nn.Module):
    """Images (B, C, H, W), normalised, to features (B, D)."""

    def __init__(self, weights: Mapping[str, Tensor], *, stem_padding: int = 1):
        """Builds the net that the tensors describe, and loads them, every one.

        Args:
            weights: by torchvision's names.
            stem_padding: of a 3x3 stem; solo-learn's has 2.

        Raises:
            WeightsError: another kind of net, or a ResNet with more parts than these.
        """
        super().__init__()
        if not resnet_names.is_resnet(weights):
            raise WeightsError(
                "the trunk is no ResNet with torchvision's parts (its tensors: "
                f"{', '.join(list(weights)[:4])}, ...); only those can be built from "
                "their tensors."
            )
        kernel = _shape(weights, "conv1.weight")[2]
        if kernel not in (3, 7):
            raise WeightsError(
                f"the stem is a {kernel}x{kernel} convolution; wanted 7x7 or 3x3."
            )
        self.channels = _inner(weights, "conv1.weight")
        self.is_small = kernel == 3
        self.conv1 = _convolution(
            weights, "conv1", 1 if self.is_small else 2, self.channels
        )
        if self.is_small:
            self.conv1.padding = (stem_padding, stem_padding)
        self.bn1 = nn.BatchNorm2d(self.conv1.out_channels)
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if self.is_small else nn.MaxPool2d(3, 2, 1)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _layer(weights, number) for number in range(1, 5)
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        last = f"layer4.0.conv{3 if 'layer4.0.conv3.weight' in weights else 2}.weight"
        self.dim = _shape(weights, last)[0]
        _load(self, weights)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Features, averaged over the positions."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.avgpool(x).flatten(1)


def stem_padding_of(layout: str) -> int:
    """Of a 3x3 stem: solo-learn's has 2, all others 1."""
    return 2 if layout == SOLO_LEARN else 1


def torchvision_name(weights: Mapping[str, Tensor]) -> str | None:
    """The function of torchvision and timm that builds this ResNet; None without one.

    A ResNet by this name takes the weights strictly, its classifier apart.
    """
    shape = resnet_shape(weights) if resnet_names.is_resnet(weights) else None
    if shape is None or shape.depth is None or shape.stem != (64, 3, 7, 7):
        return None
    form = _WIDTHS.get((shape.width, shape.groups, shape.feature_dim), "")
    name = form.format(shape.depth)
    return name if name in _IN_TORCHVISION else None


def _layer(weights: Mapping[str, Tensor], number: int) -> nn.Sequential:
    start = f"layer{number}."
    blocks = {name.split(".")[1] for name in weights if name.startswith(start)}
    if blocks != {str(n) for n in range(len(blocks))}:
        raise WeightsError(
            f"{start[:-1]} of the trunk has the blocks {', '.join(sorted(blocks))}; "
            "wanted numbers from 0 without a gap."
        )
    stride = 1 if number == 1 else 2
    return nn.Sequential(
        *(
            _Block(weights, f"{start}{n}.", stride if n == 0 else 1)
            for n in range(len(blocks))
        )
    )


def _convolution(
    weights: Mapping[str, Tensor], name: str, stride: int, channels: int
) -> nn.Conv2d:
    outer, inner, kernel, _ = _shape(weights, f"{name}.weight")
    if channels % max(1, inner) or outer % max(1, channels // max(1, inner)):
        raise WeightsError(
            f"{name} of the trunk takes {inner} channels of {channels}, which no "
            "number of groups explains."
        )
    return nn.Conv2d(
        channels,
        outer,
        kernel,
        stride=stride,
        padding=(kernel - 1) // 2,
        groups=channels // inner,
        bias=False,
    )


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, int, int, int]:
    weight = weights.get(name)
    if weight is None or weight.dim() != 4 or not weight.numel():
        got = "none" if weight is None else tuple(weight.shape)
        raise WeightsError(
            f"{name} of the trunk is {got}; wanted the four dimensions of a "
            "convolution. The trunk is no ResNet with torchvision's parts."
        )
    outer, inner, height, width = weight.shape
    if height != width:
        raise WeightsError(f"{name} of the trunk is {height} x {width}; wanted square.")
    return outer, inner, height, width


def _inner(weights: Mapping[str, Tensor], name: str) -> int:
    return _shape(weights, name)[1]


def _load(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    own = model.state_dict()
    problems = [f"{n} beside" for n in weights if n not in own]
    for name, value in own.items():
        if name not in weights:
            if not name.endswith("num_batches_tracked"):
                problems.append(f"no {name}")
        elif weights[name].shape != value.shape:
            problems.append(f"{name} of {tuple(weights[name].shape)}")
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(
            f"the trunk is a ResNet with other parts ({', '.join(problems[:3])}{more});"
            " only convolutions and BatchNorm as torchvision's can be built from their "
            "tensors."
        )
    with torch.no_grad():
        for name, value in own.items():
            if name in weights:
                value.copy_(weights[name])
