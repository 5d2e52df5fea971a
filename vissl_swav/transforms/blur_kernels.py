"""The weights of a Gaussian blur made of three box blurs, as Pillow makes it."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

NUM_BOXES = 3
# Radii are rounded to this part of a pixel, so that the weights can be kept.
RADIUS_STEPS = 128
# OpenCV filters 8-bit images with 8-bit weights: these are exact multiples.
WEIGHT_STEPS = 256


def blur_kernels(radius: Tensor, *, largest: float) -> Tensor:
    """Pillow's Gaussian along a side, three boxes after one another: (N, R), float64.

    The extended boxes of Gwosdek, Grewenig, Bruhn and Weickert 2011: their ends have a
    share of the others' weight, so that the standard deviation is exactly ``radius``.
    Radius 0 gives the identity.

    Args:
        radius: standard deviation in pixels (N,).
        largest: no radius is larger; says how many weights there are, an odd number.
    """
    variance = radius.double()[:, None] ** 2 / NUM_BOXES
    half = ((12 * variance + 1).sqrt() - 1).div(2).floor()
    full = half * (half + 1) * (2 * half + 1) / 3
    ends = (variance * (2 * half + 1) - full) / (2 * ((half + 1) ** 2 - variance))
    reach = int((math.sqrt(12 * largest**2 / NUM_BOXES + 1) - 1) / 2) + 1
    distance = torch.arange(-reach, reach + 1, device=radius.device).abs()
    box = torch.where(distance == half + 1, ends, (distance <= half).double())
    box = box / box.sum(dim=1, keepdim=True)
    kernel = box
    for _ in range(NUM_BOXES - 1):
        padded = functional.pad(kernel, (2 * reach, 2 * reach))
        kernel = (padded.unfold(1, 2 * reach + 1, 1) * box[:, None, :]).sum(dim=2)
    return kernel


def blur_weights(radius: float) -> np.ndarray:
    """Weights along a side for standard deviation `radius` in pixels, odd count, sum 1.

    Multiples of 1 / 256; those that would be 0 are left off.
    """
    return _blur_weights(round(radius * RADIUS_STEPS))


@lru_cache(maxsize=1024)
def _blur_weights(steps: int) -> np.ndarray:
    radius = torch.tensor([steps / RADIUS_STEPS], dtype=torch.float64)
    exact = blur_kernels(radius, largest=steps / RADIUS_STEPS)[0].numpy()
    whole = np.rint(exact * WEIGHT_STEPS)
    centre = len(whole) // 2
    whole[centre] += WEIGHT_STEPS - whole.sum()
    reach = centre - int(np.flatnonzero(whole)[0])
    return whole[centre - reach : centre + reach + 1] / WEIGHT_STEPS
