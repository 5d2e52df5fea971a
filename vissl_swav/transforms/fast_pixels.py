"""The pixel steps of multi-crop on uint8 arrays: OpenCV, and torch's resize.

The same steps as ``photometric``'s, which is the reference.  Images are arrays
(height, width, 3), or (height, width) for grey.  How far the pixels of each step are
from the reference's is held by ``tests/transforms/test_fast_pixels.py``.

torch resizes because it alone has Pillow's anti-aliased bilinear filter: OpenCV's has
no anti-aliasing, and its area filter differs by several levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate
from torch.utils.data import get_worker_info

from vissl_swav.transforms.blur_kernels import blur_weights
from vissl_swav.transforms.crop_parameters import Box, CropParameters
from vissl_swav.transforms.image_input import (
    LUMA,
    as_array,
    largest_shrink,
    shrink_of,
    size_of,
)

NUM_LEVELS = 256
# Matrices (C, C + 1) of a linear map and an offset, by the number of channels.
_EACH = {channels: np.eye(channels, channels + 1) for channels in (1, 3)}
_TO_GREY = np.array([[*LUMA, 0.0]] * 3)
# Pillow cuts fractions off where OpenCV rounds. Not the whole half: a result that is
# whole must stay so, however the fixed-point product errs.
_CUT_OFF = -0.49
# With 8-bit weights longer kernels come out too coarse.
_MAX_SHORT_RADIUS = 4.0


class Opened(NamedTuple):
    """A decoded image, its pixels ``shrink`` times as wide as the full scale's."""

    levels: np.ndarray
    shrink: int = 1


def open_image(image: Any, *, channels: int, drawn: Sequence[CropParameters]) -> Opened:
    """Decode once for all crops, at reduced scale where each of them allows it."""
    if get_worker_info() is not None and cv2.getNumThreads() > 1:
        # Each worker with a pool of its own is many times more threads than cores. 0
        # and not 1: after a fork, 1 would wait for threads that only the parent has.
        cv2.setNumThreads(0)
    shrink = largest_shrink(drawn)
    size = size_of(image)
    levels = as_array(image, channels=channels, shrink=shrink)
    return Opened(levels, shrink_of(levels, size))


def cut_and_resize(image: Opened, box: Box, size: int) -> np.ndarray:
    """Cut ``box``, in pixels at full scale, and resize it to a square, anti-aliased."""
    if image.shrink > 1:
        return _resize_fraction(image, box, size)
    rows = slice(box.top, box.top + box.height)
    cut = image.levels[rows, box.left : box.left + box.width]
    if cut.ndim == 2:
        return _resize(cut[..., None], size)[..., 0]
    return _resize(cut, size)


def _resize(cut: np.ndarray, size: int) -> np.ndarray:
    # Made a batch by torch, not by numpy, whose strides hide the channels-last layout,
    # for which torch's resize is a third faster.
    batch = torch.from_numpy(_writable(cut))[None].permute(0, 3, 1, 2)
    resized = interpolate(batch, size=(size, size), mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def _resize_fraction(image: Opened, box: Box, size: int) -> np.ndarray:
    """The box falls between pixels: Pillow's resize takes such, torch's does not."""
    height, width = image.levels.shape[:2]
    top, left = box.top / image.shrink, box.left / image.shrink
    bottom = min(top + box.height / image.shrink, height)
    right = min(left + box.width / image.shrink, width)
    first_row, first_column = int(top), int(left)
    rows = slice(first_row, math.ceil(bottom))
    cut = Image.fromarray(image.levels[rows, first_column : math.ceil(right)])
    within = (left - first_column, top - first_row, right - first_column)
    return np.asarray(
        cut.resize(
            (size, size),
            Image.Resampling.BILINEAR,
            box=(*within, bottom - first_row),
        )
    )


def flip_left_right(levels: np.ndarray) -> np.ndarray:
    """Mirror the image left to right."""
    return cv2.flip(levels, 1)


def adjust_brightness(levels: np.ndarray, factor: float) -> np.ndarray:
    """Scale all levels: 0 gives black, 1 the image."""
    return _affine(levels, factor * _each(levels), 0.0)


def adjust_contrast(levels: np.ndarray, factor: float) -> np.ndarray:
    """Scale the distance from the mean grey: 0 gives flat grey, 1 the image."""
    grey, green, blue, _ = cv2.mean(levels)
    if levels.ndim == 3:
        grey = LUMA[0] * grey + LUMA[1] * green + LUMA[2] * blue
    return _affine(levels, factor * _each(levels), (1 - factor) * int(grey + 0.5))


def adjust_saturation(levels: np.ndarray, factor: float) -> np.ndarray:
    """Scale the distance from the grey image: 0 gives grey, 1 the image."""
    if levels.ndim == 2:
        return levels
    return _affine(levels, factor * _EACH[3] + (1 - factor) * _TO_GREY, 0.0)


def _each(levels: np.ndarray) -> np.ndarray:
    return _EACH[1 if levels.ndim == 2 else 3]


def _affine(levels: np.ndarray, matrix: np.ndarray, offset: float) -> np.ndarray:
    """The matrix times each pixel plus the offset, clipped to 0 to 255."""
    matrix[:, -1] = offset + _CUT_OFF
    return cv2.transform(levels, matrix)


def shift_hue(levels: np.ndarray, turns: float) -> np.ndarray:
    """Turn the colour circle by ``turns`` in [-0.5, 0.5]; 0 gives the image."""
    if levels.ndim == 2:
        return levels
    # Towards zero and times 255, not 256, as torchvision does.
    shift = int(turns * (NUM_LEVELS - 1)) % NUM_LEVELS
    hsv = cv2.cvtColor(levels, cv2.COLOR_RGB2HSV_FULL)
    height, width = hsv.shape[:2]
    shifts = np.zeros(3 * width, np.uint8)
    shifts[::3] = shift
    rows = hsv.reshape(height, 3 * width)
    # uint8 sums wrap around, as the circle does.
    np.add(rows, shifts, out=rows)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def drop_colour(levels: np.ndarray) -> np.ndarray:
    """Luma (ITU-R 601), a single channel: what follows has a third of the work."""
    return levels if levels.ndim == 2 else cv2.cvtColor(levels, cv2.COLOR_RGB2GRAY)


def blur(levels: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur with standard deviation ``radius`` in pixels.

    The weights are those of Pillow's three boxes, in one pass: within 3 radii of the
    border, where Pillow repeats the border's pixels before each box, they differ.
    """
    if radius > _MAX_SHORT_RADIUS:
        return cv2.GaussianBlur(levels, (0, 0), radius, borderType=cv2.BORDER_REPLICATE)
    weights = blur_weights(radius)
    if len(weights) == 1:
        return levels
    return cv2.sepFilter2D(
        levels, -1, weights, weights, borderType=cv2.BORDER_REPLICATE
    )


def solarize(levels: np.ndarray, threshold: float) -> np.ndarray:
    """Invert all levels from ``threshold`` on."""
    # A level is >= t exactly when it is >= ceil(t).
    return cv2.LUT(levels, _solarized(-int(-threshold // 1)))


@lru_cache(maxsize=NUM_LEVELS + 1)
def _solarized(threshold: int) -> np.ndarray:
    table = np.arange(NUM_LEVELS, dtype=np.uint8)
    table[threshold:] = 255 - table[threshold:]
    return table


def to_planes(levels: np.ndarray, channels: int) -> torch.Tensor:
    """uint8 tensor (channels, height, width), one plane after the other."""
    if levels.ndim == 2:
        return torch.from_numpy(_writable(levels)).expand(channels, -1, -1)
    planes = np.empty((channels, *levels.shape[:2]), np.uint8)
    # OpenCV's is several times faster than a permuted copy.
    cv2.split(levels, [planes[channel] for channel in range(channels)])
    return torch.from_numpy(planes)


def _writable(array: np.ndarray) -> np.ndarray:
    """The array, or a view of a read-only one that does not make torch warn.

    Nobody writes: each step returns a new array.
    """
    if array.flags.writeable:
        return array
    interface = dict(array.__array_interface__)
    interface["data"] = (interface["data"][0], False)
    # The view keeps its source alive, and that the array.
    return np.asarray(SimpleNamespace(__array_interface__=interface, source=array))


JITTER: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": shift_hue,
}
