"""Multi-crop of a whole batch on its device: uint8 images in, normalised crops out.

What ``MultiCrop`` makes of one image with one key, ``BatchedMultiCrop`` makes of B
images with B keys, on a GPU or on the CPU: a loop over chunks of as many crops as the
memory allows, none over images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from vissl_swav.transforms.batched_draws import BatchedCrops, draw_batch, send
from vissl_swav.transforms.batched_pixels import (
    drop_colour,
    jitter,
    jitter_slots,
    normalize_into,
    solarize,
    some,
)
from vissl_swav.transforms.batched_resampling import blur, cut_and_resize
from vissl_swav.transforms.blur_kernels import blur_kernels
from vissl_swav.transforms.crop_groups import CropGroup
from vissl_swav.transforms.multicrop import MultiCrop
from vissl_swav.transforms.normalization import Normalization

# Of temporaries. A GPU wants large batches, a CPU what its cache holds.
MAX_BYTES_CUDA = 1 << 30
MAX_BYTES_CPU = 1 << 23


class BatchedMultiCrop:
    """Batch of padded images to V tensors of crops, all of the first group first.

    The same draws as ``MultiCrop`` from the same keys, and the pixels within two levels
    of 255 on average: nothing is rounded to 8 bits between the steps.

    On a GPU the CPU is never made to wait.  Give keys and sizes on the CPU where you
    have them there: what was drawn is then known, and crops are sorted by what they
    need.  The matrix products follow torch's precision of float32:
    ``torch.set_float32_matmul_precision("high")`` (TF32) is faster and keeps 11 bits of
    every factor.

    To cut from a data set that lies on the device, give ``bank[indices]``.
    """

    def __init__(
        self,
        groups: MultiCrop | Sequence[CropGroup],
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        channels: int | None = None,
        dtype: torch.dtype = torch.float32,
        max_bytes: int | None = None,
    ) -> None:
        """Keep the settings.

        Args:
            groups: a ``MultiCrop`` whose settings are taken, or crop groups.
            mean: of each channel, subtracted from values in [0, 1]; None is that of the
                ``MultiCrop``, else ImageNet's.
            std: of each channel, divided by; None likewise.
            channels: 3 or 1; None is the ``MultiCrop``'s, else 3.
            dtype: of the crops; they are computed in float32.
            max_bytes: bound of temporaries beside the crops; at least one crop is made
                at a time. None is 1 GiB on a GPU and 8 MiB on the CPU.

        Raises:
            ValueError: no group, or a number out of its range.
        """
        if isinstance(groups, MultiCrop):
            theirs = groups.normalization
            channels = theirs.channels if channels is None else channels
            if channels == theirs.channels:
                mean = theirs.mean if mean is None else mean
                std = theirs.std if std is None else std
            groups = groups.groups
        if not groups:
            raise ValueError("groups is empty; wanted at least one CropGroup.")
        if not dtype.is_floating_point:
            raise ValueError(f"dtype is {dtype}; wanted a floating-point one.")
        if max_bytes is not None and max_bytes <= 0:
            raise ValueError(f"max_bytes is {max_bytes}; wanted None or above 0.")
        self.groups = tuple(groups)
        self.normalization = Normalization(
            channels=3 if channels is None else channels, mean=mean, std=std
        )
        self.dtype = dtype
        self.max_bytes = max_bytes

    @torch.no_grad()
    def __call__(self, images: Tensor, sizes: Tensor, keys: Tensor) -> list[Tensor]:
        """Draw and make all crops: V tensors (B, C, size, size) on the images' device.

        Args:
            images: uint8 (B, C, H, W), each in the upper left corner; what lies below
                and to the right of it has no influence.
            sizes: width and height of each image (B, 2), integers.  On the CPU they are
                checked, on a GPU they cannot be.
            keys: stand for all chance, one an image (B,), int64, on the same device as
                the sizes.

        Raises:
            TypeError: images are not uint8.
            ValueError: another shape or number of channels, or a size out of range.
        """
        self._check(images, sizes)
        images = images.contiguous()
        drawn = draw_batch(self.groups, keys=keys, image_sizes=sizes)
        # Under autocast the products would be rounded to half precision.
        with torch.autocast(images.device.type, enabled=False):
            return [crops for group in drawn for crops in self._make(images, group)]

    def __repr__(self) -> str:
        """The groups, one a line."""
        lines = "".join(f"\n    {group}," for group in self.groups)
        return f"{type(self).__name__}({lines}\n)"

    def _make(self, images: Tensor, crops: BatchedCrops) -> Iterator[Tensor]:
        """The crops of one group: `count` tensors (B, C, size, size)."""
        (num_images, channels), size = images.shape[:2], crops.group.size
        order = _order(crops)
        crops = crops.take(order)
        slots = jitter_slots(crops)
        rows = send(order, images.device)
        sent, sent_slots = crops.to(images.device), slots.to(images.device)
        largest = crops.group.blur_radius[1]
        kernels = blur_kernels(sent.blur_radius, largest=largest)
        shape = (len(crops), channels, size, size)
        made = torch.empty(shape, dtype=self.dtype, device=images.device)
        for part in self._chunks(images, crops):
            known, here = crops.take(part), sent.take(part)
            levels = cut_and_resize(
                images,
                image_ids=rows[part] % num_images,
                box=here.box,
                flip=here.flip,
                size=size,
                window=_window(images, known),
            )
            levels = jitter(levels, sent_slots.take(part), known=slots.take(part))
            if channels == 3 and some(known.grayscale):
                drop_colour(levels, here.grayscale)
            if some(known.blur_radius > 0):
                levels = blur(levels, kernels[part])
            if some(known.solarize_threshold.isfinite()):
                levels = solarize(levels, here.solarize_threshold)
            chunk = torch.empty_like(made[: len(known)])
            numbers = self.normalization
            normalize_into(chunk, levels, mean=numbers.mean, std=numbers.std)
            made[rows[part]] = chunk
        yield from made.view(-1, num_images, *shape[1:])

    def _chunks(self, images: Tensor, crops: BatchedCrops) -> Iterator[slice]:
        """Rows that are made at once, so that their temporaries stay within bounds."""
        channels, size = images.shape[1], crops.group.size
        height, width = _window(images, crops)
        # uint8 and float32 of a window, rows of it, the matrices; then crops of colour.
        cut = 5 * channels * height * width + 4 * channels * size * width
        matrices = 8 * size * (height + width)
        colours = 4 * size * size * (4 * channels + 6) + 12 * size * size
        default = MAX_BYTES_CUDA if images.is_cuda else MAX_BYTES_CPU
        limit = default if self.max_bytes is None else self.max_bytes
        count = max(1, limit // (cut + matrices + colours))
        for first in range(0, len(crops), count):
            yield slice(first, min(first + count, len(crops)))

    def _check(self, images: Tensor, sizes: Tensor) -> None:
        if images.dtype != torch.uint8:
            raise TypeError(
                f"images are {images.dtype}; wanted uint8 levels, as decoded, before "
                "any normalisation."
            )
        channels = self.normalization.channels
        if images.ndim != 4 or images.shape[1] != channels or not images.numel():
            raise ValueError(
                f"images are {tuple(images.shape)}; wanted (B, {channels}, H, W), none "
                "of them 0. Channels come second; for grey images give channels=1."
            )
        if sizes.shape != (len(images), 2):
            raise ValueError(
                f"sizes are {tuple(sizes.shape)}; wanted ({len(images)}, 2), width and "
                "height of each image."
            )
        if sizes.is_cuda:
            return
        largest = torch.tensor([images.shape[3], images.shape[2]])
        if bool(((sizes < 1) | (sizes > largest)).any()):
            raise ValueError(
                f"sizes reach from {sizes.amin(0).tolist()} to "
                f"{sizes.amax(0).tolist()}; wanted width and height from 1 to "
                f"{largest.tolist()}, those of the padded images. Width comes first."
            )


def _order(crops: BatchedCrops) -> Tensor:
    """The rows, crops of like needs beside one another where those are known."""
    if crops.box.is_cuda:
        return torch.arange(len(crops), device=crops.box.device)
    area = (crops.box[:, 2] * crops.box[:, 3]).double()
    likeness = 8.0 * (crops.blur_radius > 0) + crops.jitter_place[:, 3]
    return (likeness + area / (area.max() + 1)).argsort(stable=True)


def _window(images: Tensor, crops: BatchedCrops) -> tuple[int, int]:
    """Height and width that hold every box; the images' own where boxes are unknown."""
    if crops.box.is_cuda:
        return images.shape[2], images.shape[3]
    height, width = crops.box[:, 2:].amax(dim=0).tolist()
    return height, width
