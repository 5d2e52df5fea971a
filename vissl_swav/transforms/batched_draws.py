"""The dice of multi-crop for a whole batch at once: what ``draw_crops`` draws.

Same variates, same float64 arithmetic, same rounding; only the loop over images is
gone.  Nothing here waits for a device: the draws lie where the keys lie.

Letters: B images, N = count * B crops of a group, the crops of one number v standing
together: crop v of image b is row v * B + b.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from vissl_swav.core.hashing import keyed_uniforms
from vissl_swav.transforms.crop_groups import CropGroup
from vissl_swav.transforms.crop_parameters import (
    CUT_ATTEMPTS,
    JITTER_STEPS,
    VARIATES_PER_CROP,
)

_NEUTRAL_FACTORS = tuple(0.0 if step == "hue" else 1.0 for step in JITTER_STEPS)


@dataclass(frozen=True, kw_only=True)
class BatchedCrops:
    """The drawn parameters of N crops of one group, one row a crop.

    Attributes:
        group: the settings they were drawn from.
        box: the cut (N, 4), int64: top, left, height, width in the image's pixels.
        flip: whether it is mirrored left to right (N,), bool.
        jitter_place: when each of ``JITTER_STEPS`` comes (N, 4), int64: 0 is first, -1
            is not at all.
        jitter_factor: of each step (N, 4), float64; 1, for hue 0, where it is left out.
        grayscale: whether colour is dropped (N,), bool.
        blur_radius: standard deviation in pixels of the crop (N,), float64; 0 is none.
        solarize_threshold: levels from here on are inverted (N,), float64; infinite
            where none is.
    """

    group: CropGroup
    box: Tensor
    flip: Tensor
    jitter_place: Tensor
    jitter_factor: Tensor
    grayscale: Tensor
    blur_radius: Tensor
    solarize_threshold: Tensor

    def __len__(self) -> int:
        """The number N of crops."""
        return len(self.box)

    def take(self, rows: Tensor | slice) -> BatchedCrops:
        """The crops of these rows, in this order."""
        return self._with([values[rows] for values in self._tensors()])

    def to(self, device: torch.device) -> BatchedCrops:
        """The same on another device."""
        return self._with([send(values, device) for values in self._tensors()])

    def _tensors(self) -> Iterator[Tensor]:
        return (getattr(self, field.name) for field in fields(self)[1:])

    def _with(self, tensors: Sequence[Tensor]) -> BatchedCrops:
        names = (field.name for field in fields(self)[1:])
        return BatchedCrops(group=self.group, **dict(zip(names, tensors, strict=True)))


def send(values: Tensor, device: torch.device) -> Tensor:
    """Copy to a device without waiting for it (from pinned memory, so it can be so)."""
    if values.device == device:
        return values
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def draw_batch(
    groups: Sequence[CropGroup], *, keys: Tensor, image_sizes: Tensor
) -> list[BatchedCrops]:
    """Draw all crops of a batch of images: for each what ``draw_crops`` draws.

    Exactly so, but for a side that comes within 1e-16 of half a pixel, where another
    library's exponential may round it to the other side.

    Args:
        groups: the settings.
        keys: each image's key, which stands for all chance (B,), int64.
        image_sizes: width and height of each image in pixels (B, 2), integers, on the
            same device.

    Returns:
        One ``BatchedCrops`` a group, with ``count * B`` rows, on the keys' device.
    """
    _check(keys, image_sizes)
    num_crops = sum(group.count for group in groups)
    variates = keyed_uniforms(keys, num_crops * VARIATES_PER_CROP)
    by_crop = variates.view(len(keys), num_crops, VARIATES_PER_CROP).transpose(0, 1)
    drawn, first = [], 0
    for group in groups:
        uniforms = by_crop[first : first + group.count].flatten(0, 1)
        sizes = image_sizes.long().repeat(group.count, 1)
        drawn.append(_draw_group(group, uniforms, sizes))
        first += group.count
    return drawn


def _draw_group(group: CropGroup, uniforms: Tensor, sizes: Tensor) -> BatchedCrops:
    """Crops from uniforms (N, VARIATES_PER_CROP), in the order that ``draw_crop`` eats.

    That order: place, area and ratio of each cut, flip, jitter's yes-or-no, factor and
    sort key of each jitter step, grayscale, blur and its radius, solarise.
    """
    num_steps = len(JITTER_STEPS)
    parts = uniforms.split([2, 2 * CUT_ATTEMPTS, 1, 1, 2 * num_steps, 1, 2, 1], dim=1)
    place, cuts, flip, jitter, for_jitter, grayscale, for_blur, solarize = parts
    jitters = jitter < group.jitter_probability
    places, factors = _draw_jitter(group, for_jitter[:, ::2], for_jitter[:, 1::2])
    neutral = torch.stack([torch.full_like(flip[:, 0], f) for f in _NEUTRAL_FACTORS], 1)
    left_out = ~jitters | (places < 0)
    blurs = for_blur[:, 0] < group.blur_probability
    radius = _between(*group.blur_radius, for_blur[:, 1])
    solarizes = solarize[:, 0] < group.solarize_probability
    low, high = group.solarize_threshold
    threshold = torch.full_like(radius, low)
    if low < high and group.solarize_probability > 0:
        share = solarize[:, 0] / group.solarize_probability
        threshold = (low + share * (high - low + 1)).floor().clamp(max=high)
    return BatchedCrops(
        group=group,
        box=_draw_boxes(group, place, cuts, sizes),
        flip=flip[:, 0] < group.flip_probability,
        jitter_place=places.masked_fill(left_out, -1),
        jitter_factor=torch.where(left_out, neutral, factors),
        grayscale=grayscale[:, 0] < group.grayscale_probability,
        blur_radius=radius.masked_fill(~blurs, 0.0),
        solarize_threshold=threshold.masked_fill(~solarizes, math.inf),
    )


def _draw_boxes(group: CropGroup, place: Tensor, cuts: Tensor, sizes: Tensor) -> Tensor:
    """The first of the ten cuts that fits, else the central one: (N, 4)."""
    width, height = sizes[:, :1], sizes[:, 1:]
    area = (width * height) * _between(*group.scale, cuts[:, ::2])
    low, high = (math.log(bound) for bound in group.ratio)
    if low == high:
        # The same exponential as in ``draw_crop``: this one may hit a half every time.
        ratio = torch.full_like(area, math.exp(low))
    else:
        ratio = _between(low, high, cuts[:, 1::2]).exp()
    cut_width = (area * ratio).sqrt().round().long()
    cut_height = (area / ratio).sqrt().round().long()
    fits = (cut_width > 0) & (cut_width <= width)
    fits &= (cut_height > 0) & (cut_height <= height)
    first = fits.int().argmax(dim=1, keepdim=True)
    drawn_width, drawn_height = cut_width.gather(1, first), cut_height.gather(1, first)
    top = (place[:, :1] * (height - drawn_height + 1)).floor().long()
    left = (place[:, 1:] * (width - drawn_width + 1)).floor().long()
    drawn = torch.cat([top, left, drawn_height, drawn_width], dim=1)
    any_fits = fits.any(dim=1, keepdim=True)
    return torch.where(any_fits, drawn, _central_boxes(group, width, height))


def _central_boxes(group: CropGroup, width: Tensor, height: Tensor) -> Tensor:
    widest = (height * group.ratio[1]).round().long().clamp(min=1)
    highest = (width / group.ratio[0]).round().long().clamp(min=1)
    cut_width, cut_height = torch.minimum(width, widest), torch.minimum(height, highest)
    top, left = (height - cut_height) // 2, (width - cut_width) // 2
    return torch.cat([top, left, cut_height, cut_width], dim=1)


def _draw_jitter(
    group: CropGroup, for_factor: Tensor, sort_keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Place and factor of each step, both (N, 4); steps of strength 0 have no place."""
    factors = []
    for step, strength in enumerate(group.jitter):
        centre = _NEUTRAL_FACTORS[step]
        is_hue = JITTER_STEPS[step] == "hue"
        lowest = -strength if is_hue else max(0.0, 1.0 - strength)
        factors.append(_between(lowest, centre + strength, for_factor[:, step]))
    active = [step for step, strength in enumerate(group.jitter) if strength > 0]
    columns = [torch.full_like(sort_keys[:, 0], -1).long() for _ in group.jitter]
    for step in active:
        others = (sort_keys[:, other] for other in active if other != step)
        earlier = [(key < sort_keys[:, step]).long() for key in others]
        columns[step] = sum(earlier, torch.zeros_like(columns[step]))
    return torch.stack(columns, dim=1), torch.stack(factors, dim=1)


def _between(low: float, high: float, uniforms: Tensor) -> Tensor:
    return low + (high - low) * uniforms


def _check(keys: Tensor, image_sizes: Tensor) -> None:
    if keys.ndim != 1 or keys.dtype != torch.int64:
        raise ValueError(
            f"keys are {tuple(keys.shape)} {keys.dtype}; wanted (B,) int64, as "
            "core.hashing.sample_keys gives them."
        )
    whole = not (image_sizes.is_floating_point() or image_sizes.is_complex())
    if image_sizes.shape != (len(keys), 2) or not whole:
        raise ValueError(
            f"image sizes are {tuple(image_sizes.shape)} {image_sizes.dtype}; wanted "
            f"integers ({len(keys)}, 2), width and height of the image of each key."
        )
    if keys.device != image_sizes.device:
        raise ValueError(
            f"keys are on {keys.device} and image sizes on {image_sizes.device}; move "
            "one of them. Both on the CPU is best: the draws are then known there."
        )
