"""Resizing and blurring of many crops at once: two matrix products for each.

Both are separable, so a crop is ``down @ image @ across^T`` with a matrix for each side
that holds all of its own parameters: box, flip or radius.

Crops are (N, S, C, S) here: row, channel, column, in levels of 0 to 255.  So both
products read and write plain matrices, (S x .) @ (. x C S) then (S C x .) @ (. x S),
and nothing is copied in between.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def cut_and_resize(
    images: Tensor,
    *,
    image_ids: Tensor,
    box: Tensor,
    flip: Tensor,
    size: int,
    window: tuple[int, int],
) -> Tensor:
    """Cut and resize, bilinear with anti-aliasing: (N, size, C, size), float32.

    Pillow's filter: a triangle as wide as two source pixels, or two crop pixels where
    those are larger, its weights cut off at the box and made to sum to 1.

    Args:
        images: uint8 (B, C, H, W), contiguous; what lies outside a box has no influence
            on its crop.
        image_ids: which image each crop is cut from (N,).
        box: top, left, height, width (N, 4), within the image.
        flip: whether to mirror left to right (N,), bool.
        size: side of the crops.
        window: height and width of what is read of an image, no smaller than any box
            and no larger than the images.
    """
    num, channels = len(box), images.shape[1]
    height, width = window
    # Within the image, so that no window runs over its edge.
    top = box[:, 0].clamp(max=images.shape[2] - height)
    left = box[:, 1].clamp(max=images.shape[3] - width)
    levels = _windows(images, image_ids, top, left, window).float()
    down = triangle_weights(box[:, 0] - top, box[:, 2], size=size, length=height)
    across = triangle_weights(
        box[:, 1] - left, box[:, 3], size=size, length=width, mirrored=flip
    )
    rows = torch.bmm(down, levels.view(num, height, channels * width))
    crops = torch.bmm(rows.view(num, size * channels, width), across.transpose(1, 2))
    return crops.view(num, size, channels, size)


def _windows(
    images: Tensor,
    image_ids: Tensor,
    top: Tensor,
    left: Tensor,
    window: tuple[int, int],
) -> Tensor:
    """Windows of one size, each with its own corner: (N, height, C, width), uint8."""
    _, channels, image_height, image_width = images.shape
    height, width = window
    rows = top[:, None] + torch.arange(height, device=images.device)
    planes = torch.arange(channels, device=images.device)
    planes = image_ids[:, None] * channels + planes
    line = planes[:, None, :] * image_height + rows[:, :, None]
    start = line * image_width + left[:, None, None]
    # Every stretch of `width` levels in memory: a view, of which those are copied.
    return images.view(-1).unfold(0, width, 1)[start]


def triangle_weights(
    offset: Tensor,
    extent: Tensor,
    *,
    size: int,
    length: int,
    mirrored: Tensor | None = None,
) -> Tensor:
    """Matrices that resize one side: (N, size, length), every row sums to 1.

    Args:
        offset: where the cut begins, in pixels (N,).
        extent: how long it is (N,); offset + extent <= length.
        size: pixels after.
        length: pixels before.
        mirrored: whether the result is turned round (N,), bool.
    """
    offset, extent = offset.float()[:, None], extent.float()[:, None]
    place = torch.arange(size, device=offset.device) + 0.5
    if mirrored is not None:
        place = torch.where(mirrored[:, None], size - place, place)
    scale = extent / size
    centre = place * scale + offset
    pixel = (torch.arange(length, device=offset.device) + 0.5).expand(len(offset), -1)
    inside = (pixel > offset) & (pixel < offset + extent)
    # Far away, and so of weight 0.
    pixel = torch.where(inside, pixel, -2.0 * length - 2.0)
    weights = (pixel[:, None, :] - centre[:, :, None]).abs_()
    weights = weights.div_(-scale.clamp(min=1.0)[:, :, None]).add_(1.0).clamp_(min=0.0)
    return weights.div_(weights.sum(dim=2, keepdim=True))


def blur(crops: Tensor, kernels: Tensor) -> Tensor:
    """Blur (N, S, C, S) along both sides, each with its kernel (N, R); edges repeat."""
    num, size, channels, _ = crops.shape
    weights = _repeating_edges(kernels.to(crops.dtype), size)
    rows = torch.bmm(weights, crops.reshape(num, size, channels * size))
    blurred = torch.bmm(rows.view(num, size * channels, size), weights.transpose(1, 2))
    return blurred.view(num, size, channels, size)


def _repeating_edges(kernels: Tensor, size: int) -> Tensor:
    """The kernels as matrices (N, size, size), what falls off given to the edges."""
    reach = kernels.shape[1] // 2
    place = torch.arange(size, device=kernels.device)
    pixel = torch.arange(-reach, size + reach, device=kernels.device)
    # A weight of 0 on either side stands for all that is out of reach.
    tap = (pixel - place[:, None] + reach + 1).clamp(0, 2 * reach + 2)
    padded = functional.pad(kernels, (1, 1))
    wide = padded.index_select(1, tap.flatten()).view(len(kernels), size, -1)
    weights = wide[:, :, reach : reach + size].contiguous()
    weights[:, :, 0] += wide[:, :, :reach].sum(dim=2)
    weights[:, :, -1] += wide[:, :, reach + size :].sum(dim=2)
    return weights
