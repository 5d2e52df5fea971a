"""What a ResNet is, read off the shapes of its tensors."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

_BASIC: dict[tuple[int, ...], int] = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 34}
_BOTTLENECK: dict[tuple[int, ...], int] = {
    (3, 4, 6, 3): 50,
    (3, 4, 23, 3): 101,
    (3, 8, 36, 3): 152,
}


class ResNetShape(NamedTuple):
    """A ResNet with torchvision's parts.

    Attributes:
        is_bottleneck: blocks of three convolutions, not two.
        blocks: of the four layers.
        stem: the first convolution's shape (out, in, height, width).
        width: channels of the first 3x3 convolution of layer 1 that is not the stem.
        groups: of that convolution.
        feature_dim: channels of the last layer.
    """

    is_bottleneck: bool
    blocks: tuple[int, ...]
    stem: tuple[int, ...]
    width: int
    groups: int
    feature_dim: int

    @property
    def depth(self) -> int | None:
        """Of the paper's nets, 18 to 152; None for other numbers of blocks."""
        return (_BOTTLENECK if self.is_bottleneck else _BASIC).get(self.blocks)

    def __str__(self) -> str:
        stem, blocks = "x".join(map(str, self.stem)), "-".join(map(str, self.blocks))
        kind = "bottleneck" if self.is_bottleneck else "basic"
        return f"conv1 {stem}, {kind} blocks {blocks}"


def num_blocks(trunk: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Blocks of the four layers; 0 for a layer that is not there."""
    return tuple(
        len({name.split(".")[1] for name in trunk if name.startswith(f"layer{i}.")})
        for i in range(1, 5)
    )


def resnet_shape(trunk: Mapping[str, Tensor]) -> ResNetShape | None:
    """Of a trunk with torchvision's names; None where it is no such net."""
    is_bottleneck = "layer1.0.conv3.weight" in trunk
    last = f"layer4.0.conv{3 if is_bottleneck else 2}.weight"
    found = [trunk.get(n) for n in ("conv1.weight", "layer1.0.conv2.weight", last)]
    shapes = [tuple(weight.shape) for weight in found if weight is not None]
    if len(shapes) < 3 or any(len(shape) != 4 or 0 in shape for shape in shapes):
        return None
    stem, (width, inner, *_), (feature_dim, *_) = shapes
    return ResNetShape(
        is_bottleneck, num_blocks(trunk), stem, width, width // inner, feature_dim
    )
