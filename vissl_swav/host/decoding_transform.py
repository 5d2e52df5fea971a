"""`MultiCrop` in a worker where the train step makes the crops: it decodes.

Sides are bounded, since images of a batch travel in one padded tensor. A JPEG is
decoded at the scale that the bound asks for.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vissl_swav.core.hashing import draw_key
from vissl_swav.core.image_scales import SHRINKS

MAX_SIDE = 512


class DecodedImage(NamedTuple):
    """An image on its way to the train step."""

    levels: Tensor  # (C, H, W) uint8.
    key: int


class Decoding:
    """Image -> `num_crops` times the same `DecodedImage`, so that the host counts V.

    Args:
        num_crops: V.
        channels: C, 1 or 3.
        max_side: bound of width and height, in pixels; larger images are scaled down.
    """

    def __init__(self, *, num_crops: int, channels: int, max_side: int = MAX_SIDE):
        if max_side < 1:
            raise ValueError(f"max_side is {max_side}; wanted pixels, {MAX_SIDE} say.")
        self.num_crops, self.channels, self.max_side = num_crops, channels, max_side

    def __call__(self, image: Any, *, key: int | None = None) -> list[DecodedImage]:
        """Decodes a Pillow image or an object with `size` and `decode`."""
        key = draw_key() if key is None else key
        levels = self._bounded(self._decode(image))
        levels = np.ascontiguousarray(levels.transpose(2, 0, 1))
        return [DecodedImage(torch.from_numpy(levels), key)] * self.num_crops

    def _decode(self, image: Any) -> np.ndarray:
        if isinstance(image, Image.Image):
            mode = "RGB" if self.channels == 3 else "L"
            pixels = np.asarray(image.convert(mode))
            return pixels.reshape(*pixels.shape[:2], self.channels)
        longest = max(image.size)
        shrink = next(s for s in SHRINKS if s == 1 or longest >= s * self.max_side)
        return image.decode(channels=self.channels, shrink=shrink)

    def _bounded(self, pixels: np.ndarray) -> np.ndarray:
        height, width = pixels.shape[:2]
        ratio = self.max_side / max(height, width)
        if ratio >= 1:
            return pixels
        size = max(1, round(height * ratio)), max(1, round(width * ratio))
        batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        small = torch.nn.functional.interpolate(
            batch, size=size, mode="bilinear", antialias=True
        )
        return small[0].permute(1, 2, 0).numpy()
