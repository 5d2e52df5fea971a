"""Levels to numbers: subtract each channel's mean, divide by its standard deviation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

MAX_LEVEL = 255
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# The means of the three: what the field uses for grey images.
IMAGENET_GREY_MEAN = (0.449,)
IMAGENET_GREY_STD = (0.226,)

_WORDS = {1: "one finite number", 3: "three finite numbers, R, G, B"}


class Normalization:
    """uint8 levels (..., C, H, W) to float32: ``(level / 255 - mean) / std``.

    The same numbers, to the bit, for one crop and in a batch.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        """Check the numbers and keep them.

        Args:
            channels: 1 or 3.
            mean: of each channel, for levels in [0, 1]; None is ImageNet's, 0.449 for
                one channel.
            std: of each channel; None is ImageNet's, 0.226 for one channel.

        Raises:
            ValueError: a wrong count of numbers, or a std that is not above 0.
        """
        if channels not in _WORDS or isinstance(channels, bool):
            raise ValueError(
                f"channels is {channels!r}; wanted 1 (grey) or 3 (RGB). Images of any "
                "other kind are converted."
            )
        grey = channels == 1
        default_mean = IMAGENET_GREY_MEAN if grey else IMAGENET_MEAN
        default_std = IMAGENET_GREY_STD if grey else IMAGENET_STD
        self.channels: int = channels
        self.mean = _numbers("mean", default_mean if mean is None else mean, channels)
        self.std = _numbers("std", default_std if std is None else std, channels)
        if min(self.std) <= 0:
            raise ValueError(
                f"std is {list(self.std)}; wanted every number above 0 (ImageNet's: "
                f"{default_std})."
            )
        # In levels: one subtraction and one product for each.
        self._shift = _column(MAX_LEVEL * number for number in self.mean)
        self._factor = _column(1 / (MAX_LEVEL * number) for number in self.std)

    def __call__(self, levels: Tensor) -> Tensor:
        """(..., C, H, W) uint8 to a contiguous float32 tensor on the same device.

        Raises:
            ValueError: not uint8, or another number of channels.
        """
        shape = tuple(levels.shape)
        if levels.dtype != torch.uint8 or shape[-3:-2] != (self.channels,):
            raise ValueError(
                f"normalize got {levels.dtype} of shape {shape}; wanted uint8 crops "
                f"(..., {self.channels}, height, width). Give it what "
                'output="uint8" makes.'
            )
        plain = levels.to(torch.float32, memory_format=torch.contiguous_format)
        shift, factor = (
            column.to(levels.device, non_blocking=True)
            for column in (self._shift, self._factor)
        )
        return plain.sub_(shift).mul_(factor)


def _numbers(name: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != channels or not all(map(math.isfinite, numbers)):
        raise ValueError(
            f"{name} is {values!r}; wanted {_WORDS[channels]}, one per channel."
        )
    return numbers


def _column(numbers: Iterable[float]) -> Tensor:
    """One number a channel as (C, 1, 1), which broadcasts over images."""
    return torch.tensor(list(numbers), dtype=torch.float32).view(-1, 1, 1)
