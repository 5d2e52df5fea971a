"""The dice of multi-crop: everything random about one crop, drawn before any pixel.

An image's key stands for all chance in its crops.  Each crop uses up the same number of
uniform variates, ``VARIATES_PER_CROP``, whatever its settings and whatever came out: so
crop v of an image is the same crop whether or not another step is switched on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vissl_swav.core.hashing import keyed_bits
from vissl_swav.transforms.crop_groups import CropGroup

CUT_ATTEMPTS = 10
JITTER_STEPS = ("brightness", "contrast", "saturation", "hue")
# The place, then area and ratio of each attempt.
_FOR_BOX = 2 + 2 * CUT_ATTEMPTS
# Five yes-or-no's, the blur's radius, a factor and a sort key for each jitter step.
VARIATES_PER_CROP = _FOR_BOX + 5 + 1 + 2 * len(JITTER_STEPS)


class Box(NamedTuple):
    """The cut out of the source image, in its pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class CropParameters:
    """One crop's drawn parameters; together with the image they give its pixels.

    Attributes:
        size: side of the finished crop, in pixels.
        box: the cut.
        flip: whether it is mirrored left to right.
        jitter: ``(step, factor)`` pairs in the order of application, steps named as in
            ``JITTER_STEPS``; empty where no jitter is applied.  Hue's factor is a shift
            in turns of the colour circle, the others are multipliers.
        grayscale: whether colour is dropped.
        blur_radius: standard deviation in pixels of the finished crop, or None.
        solarize_threshold: levels from here on are inverted, or None.
    """

    size: int
    box: Box
    flip: bool = False
    jitter: tuple[tuple[str, float], ...] = ()
    grayscale: bool = False
    blur_radius: float | None = None
    solarize_threshold: float | None = None


def draw_crops(
    groups: Sequence[CropGroup],
    *,
    image_size: tuple[int, int],
    key: int,
) -> list[CropParameters]:
    """Draw all crops of one image, those of the first group first.

    Args:
        groups: the settings.
        image_size: width and height of the image in pixels, as ``Image.size``.
        key: stands for all chance: equal keys give equal draws, in any process.
    """
    settings = [group for group in groups for _ in range(group.count)]
    table = _uniforms(key, len(settings) * VARIATES_PER_CROP)
    table = table.reshape(len(settings), VARIATES_PER_CROP).tolist()
    return [
        draw_crop(group, image_size=image_size, variates=row)
        for group, row in zip(settings, table, strict=True)
    ]


def _uniforms(key: int, count: int) -> np.ndarray:
    """The key's numbers of `core.hashing.keyed_uniforms`, three times as fast."""
    bits = keyed_bits(np.array([key], np.int64), np.arange(1, count + 1))
    return ((bits >> 12 & (1 << 52) - 1) + 0.5) / float(1 << 52)


def draw_crop(
    group: CropGroup, *, image_size: tuple[int, int], variates: Sequence[float]
) -> CropParameters:
    """One crop's parameters as a function of ``VARIATES_PER_CROP`` uniforms in (0, 1).

    The yes-or-no of a step with probability p is ``u < p``: never at 0, always at 1.
    """
    box = _draw_box(group, image_size, variates[:_FOR_BOX])
    uniform = iter(variates[_FOR_BOX:])
    flip = next(uniform) < group.flip_probability
    jitter = _draw_jitter(group, uniform)
    grayscale = next(uniform) < group.grayscale_probability
    blur = next(uniform) < group.blur_probability
    radius = _between(*group.blur_radius, next(uniform))
    for_solarize = next(uniform)
    solarize = for_solarize < group.solarize_probability
    return CropParameters(
        size=group.size,
        box=box,
        flip=flip,
        jitter=jitter,
        grayscale=grayscale,
        blur_radius=radius if blur else None,
        solarize_threshold=_threshold(group, for_solarize) if solarize else None,
    )


def _threshold(group: CropGroup, uniform: float) -> float:
    """A whole level, from what the yes left over: below p, u / p is uniform again."""
    low, high = group.solarize_threshold
    if low == high:
        return low
    share = uniform / group.solarize_probability
    return min(high, math.floor(low + share * (high - low + 1)))


def _draw_box(
    group: CropGroup, image_size: tuple[int, int], variates: Sequence[float]
) -> Box:
    """Random resized crop: area uniform, log of width over height uniform.

    Cuts that do not fit are drawn anew, ten times at most; then the largest central cut
    with a permitted ratio is taken, as torchvision's ``RandomResizedCrop`` does.
    """
    width, height = image_size
    low, high = (math.log(bound) for bound in group.ratio)
    down, across, *attempts = variates
    for for_area, for_ratio in zip(attempts[::2], attempts[1::2], strict=True):
        area = width * height * _between(*group.scale, for_area)
        ratio = math.exp(_between(low, high, for_ratio))
        cut_width = round(math.sqrt(area * ratio))
        cut_height = round(math.sqrt(area / ratio))
        if 0 < cut_width <= width and 0 < cut_height <= height:
            top = math.floor(down * (height - cut_height + 1))
            left = math.floor(across * (width - cut_width + 1))
            return Box(top, left, cut_height, cut_width)
    return _central_box(image_size, group.ratio)


def _central_box(image_size: tuple[int, int], ratio: tuple[float, float]) -> Box:
    width, height = image_size
    # At least one pixel: a 1-pixel-wide image would otherwise give an empty cut.
    cut_width = min(width, max(1, round(height * ratio[1])))
    cut_height = min(height, max(1, round(width / ratio[0])))
    top, left = (height - cut_height) // 2, (width - cut_width) // 2
    return Box(top, left, cut_height, cut_width)


def _draw_jitter(
    group: CropGroup, uniform: Iterator[float]
) -> tuple[tuple[str, float], ...]:
    """Factors and order of the jitter steps; every order is equally likely.

    Steps of strength 0 are left out: a hue shift of 0 would still round through HSV.
    """
    apply = next(uniform) < group.jitter_probability
    steps: list[tuple[float, str, float]] = []
    for name, strength in zip(JITTER_STEPS, group.jitter, strict=True):
        centre = 0.0 if name == "hue" else 1.0
        lowest = -strength if name == "hue" else max(0.0, 1.0 - strength)
        factor = _between(lowest, centre + strength, next(uniform))
        sort_key = next(uniform)
        if strength > 0:
            steps.append((sort_key, name, factor))
    return tuple((name, factor) for _, name, factor in sorted(steps)) if apply else ()


def _between(low: float, high: float, uniform: float) -> float:
    return low + (high - low) * uniform
