"""The weights of a Gaussian blur made of three box blurs, as Pillow makes it."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

NUM_BOXES = 3
# Radii are rounded to this part of a pixel, so that the weights can be kept.
RADIUS_STEPS = 128
# OpenCV filters 8-bit images with 8-bit weights: these are exact multiples.
WEIGHT_STEPS = 256


def box_weights(variance: float) -> np.ndarray:
    """A box with fractional ends, of exactly this variance, sum 1.

    2 l + 1 weights of 1 between two of 0 <= a < 1: the "extended box filter" of
    Gwosdek, Grewenig, Bruhn and Weickert 2011.  Variance 0 gives the identity.
    """
    half = (math.sqrt(12 * variance + 1) - 1) // 2
    full = half * (half + 1) * (2 * half + 1) / 3
    ends = (variance * (2 * half + 1) - full) / (2 * ((half + 1) ** 2 - variance))
    weights = np.concatenate([[ends], np.ones(2 * int(half) + 1), [ends]])
    return weights / weights.sum()


def blur_weights(radius: float) -> np.ndarray:
    """Weights along a side for standard deviation `radius` in pixels, odd count, sum 1.

    Multiples of 1 / 256; those that would be 0 are left off.
    """
    return _blur_weights(round(radius * RADIUS_STEPS))


@lru_cache(maxsize=1024)
def _blur_weights(steps: int) -> np.ndarray:
    box = box_weights((steps / RADIUS_STEPS) ** 2 / NUM_BOXES)
    exact = box
    for _ in range(NUM_BOXES - 1):
        exact = np.convolve(exact, box)
    whole = np.rint(exact * WEIGHT_STEPS)
    centre = len(whole) // 2
    whole[centre] += WEIGHT_STEPS - whole.sum()
    reach = centre - int(np.flatnonzero(whole)[0])
    return whole[centre - reach : centre + reach + 1] / WEIGHT_STEPS
