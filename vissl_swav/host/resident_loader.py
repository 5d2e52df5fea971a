"""Small images: the whole training data, decoded, where the model computes.

`DATA.TRAIN.IMAGES_ON_DEVICE`: one pass of the workers at the start, then a batch is an
index into a tensor. For `multi_crop_train_step`.
"""

import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
from classy_vision.generic.distributed_util import get_rank, is_primary
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from vissl_swav.data.errors import DataError
from vissl_swav.host.machine_checks import memory_bytes
from vissl_swav.host.multi_crop_collator import multi_crop_collator

_MOST_OF_MEMORY = 0.8


class ResidentLoader:
    """Batches as `multi_crop_collator` makes them of decoded images.

    Every rank holds all images: any of them may be its own in the next epoch.

    Args:
        loader: a loader of the same data, whose workers decode it once.
        device: where the images go.
    """

    def __init__(self, loader: DataLoader[Any], device: torch.device):
        self.dataset = loader.dataset
        self.sampler: Any = loader.sampler
        self._batch_size = loader.batch_size or 1
        self._drop_last = loader.drop_last
        self._device = device
        self._images, self._sizes, self._labels = _read_all(loader, device)

    def __len__(self) -> int:
        """Batches of an epoch on this rank."""
        return self._count(len(self.sampler))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The sampler's images, batch by batch."""
        indices, keys = self.sampler.order()
        for step in range(self._count(len(indices))):
            rows = slice(step * self._batch_size, (step + 1) * self._batch_size)
            yield self._batch(indices[rows], keys[rows])

    def _count(self, images: int) -> int:
        spare = 0 if self._drop_last else self._batch_size - 1
        return (images + spare) // self._batch_size

    def _batch(self, indices: Tensor, keys: Tensor) -> dict[str, Any]:
        there = indices.to(self._device, non_blocking=True)
        num_crops = self._labels.shape[1]
        numbers = there.repeat(num_crops)
        return {
            "data": [[self._images[there], self._sizes[indices].numpy(), keys.numpy()]],
            "label": [self._labels[there].T.reshape(-1)],
            "data_valid": [torch.ones_like(numbers)],
            "data_idx": [numbers],
        }


def _read_all(
    loader: DataLoader[Any], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Images (N, C, H, W) uint8, sizes (N, 2) and labels (N, V), in their order."""
    dataset: Any = loader.dataset
    once = DataLoader(
        dataset,
        batch_size=256,
        sampler=SequentialSampler(dataset),
        num_workers=loader.num_workers,
        collate_fn=multi_crop_collator,
        multiprocessing_context=loader.multiprocessing_context,
    )
    description = "decoding the images"
    batches = track(
        once,
        description=description,
        total=len(once),
        console=Console(stderr=True),
        disable=not is_primary(),
    )
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in batches:
        images, sizes, _ = batch["data"][0]
        if not parts:
            _check_memory(images, len(dataset), device)
        labels = batch["label"][0].view(-1, len(images)).T
        parts.append((images, torch.from_numpy(sizes), labels))
    height = max(images.shape[2] for images, _, _ in parts)
    width = max(images.shape[3] for images, _, _ in parts)
    whole = parts[0][0].new_zeros(len(dataset), parts[0][0].shape[1], height, width)
    start = 0
    for images, _, _ in parts:
        whole[start : start + len(images), :, : images.shape[2], : images.shape[3]] = (
            images
        )
        start += len(images)
    logging.info(f"Rank {get_rank()}: {tuple(whole.shape)} uint8 go to {device}")
    sizes = torch.cat([sizes for _, sizes, _ in parts])
    labels = torch.cat([labels for _, _, labels in parts])
    return whole.to(device), sizes, labels.to(device)


def _check_memory(images: Tensor, count: int, device: torch.device) -> None:
    whole = images[0].numel() * count
    # While they are put together every rank of the machine holds them twice.
    needs = {"cpu": 2 * whole * int(os.environ.get("LOCAL_WORLD_SIZE", 1))}
    if device.type == "cuda":
        needs["gpu"] = whole
    for place, needed in needs.items():
        available = memory_bytes(place)
        if available is not None and needed > _MOST_OF_MEMORY * available:
            raise DataError(
                f"config.DATA.TRAIN.IMAGES_ON_DEVICE: {count} images of "
                f"{tuple(images.shape[1:])} need at least {needed / 2**30:.1f} GiB of "
                f"the {place}'s memory, which has {available / 2**30:.1f} GiB; set it "
                "to false, or give MultiCrop a smaller max_side."
            )
