"""A projection head and prototypes, built from their tensors."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vissl_swav.weights.errors import WeightsError

_START = "projection_head."


class PlainModel(nn.Module):
    """Images to unit features Z (B, D), and cosines (B, K) of each prototype head."""

    def __init__(self, trunk: nn.Module, weights: Mapping[str, Tensor]):
        """Builds the head that the tensors describe, behind a trunk.

        Args:
            trunk: images to features.
            weights: `projection_head.N.*` and `prototypesN.weight`, others apart.

        Raises:
            WeightsError: no projection head, or one of other parts.
        """
        super().__init__()
        self.trunk = trunk
        self.projection_head = _projection(weights)
        # The scores are cosines: rows to unit length, as in training.
        self.prototypes = nn.ModuleList(
            _linear(nn.functional.normalize(C.float(), dim=1), None)
            for C in prototypes(weights)
        )
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Z, and ``Z C^T`` of each prototype head."""
        Z = nn.functional.normalize(self.projection_head(self.trunk(images)), dim=1)
        return (Z, *(head(Z) for head in self.prototypes))


def prototypes(weights: Mapping[str, Tensor]) -> list[Tensor]:
    """C (K, D) of each head, in their order."""
    found = {
        int(name.removeprefix("prototypes").partition(".")[0]): weight
        for name, weight in weights.items()
        if name.startswith("prototypes") and name.endswith(".weight")
    }
    return [found[number] for number in sorted(found)]


def _projection(weights: Mapping[str, Tensor]) -> nn.Sequential:
    parts: dict[int, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        number, _, last = name.removeprefix(_START).partition(".")
        if name.startswith(_START) and number.isdecimal():
            parts.setdefault(int(number), {})[last] = tensor
    if not parts:
        raise WeightsError(
            "the file has no projection head of linear layers and BatchNorm (names "
            f"{_START}N.weight); take --part trunk."
        )
    layers: list[nn.Module] = []
    for number in range(max(parts) + 1):
        # What has no tensors is the activation between two layers.
        part = parts.get(number)
        layers.append(nn.ReLU() if part is None else _layer(number, part))
    return nn.Sequential(*layers)


def _layer(number: int, part: Mapping[str, Tensor]) -> nn.Module:
    weight = part.get("weight")
    if weight is not None and weight.dim() == 2:
        return _linear(weight, part.get("bias"))
    if weight is None or weight.dim() != 1 or "running_var" not in part:
        raise WeightsError(
            f"{_START}{number} is neither a linear layer nor a BatchNorm (it has "
            f"{', '.join(part)}); take --part trunk."
        )
    norm = nn.BatchNorm1d(len(weight))
    with torch.no_grad():
        for name, value in norm.state_dict().items():
            if name in part:
                value.copy_(part[name])
    return norm


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer
