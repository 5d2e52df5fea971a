"""Collator `multi_crop_collator`: a batch of crop lists to one tensor per crop."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vissl.data.collators import register_collator

from vissl_swav.host.decoding_transform import DecodedImage
from vissl_swav.host.settings import COLLATOR_NAME


@register_collator(COLLATOR_NAME)
def multi_crop_collator(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stacks samples crop by crop.

    Args:
        batch: B samples; `data` holds V crops (C, H, W), `label`, `data_valid` and
            `data_idx` one value a crop.

    Returns:
        `data` [[V tensors (B, C, H, W)]]; the others [tensor (V * B,)], crop-major.
        Of decoded images, `data` is [[images (B, C, H, W) uint8 with zeros below and to
        the right, sizes (B, 2) as width and height, keys (B,)]]; the last two are numpy
        arrays, which the host leaves where they are: draws are made on the CPU.
    """
    if isinstance(batch[0]["data"][0], DecodedImage):
        data = _pad([sample["data"][0] for sample in batch])
    else:
        crops = zip(*(sample["data"] for sample in batch), strict=True)
        data = [_stack(crop) for crop in crops]
    collated: dict[str, Any] = {"data": [data]}
    for key in ("label", "data_valid", "data_idx"):
        rows = torch.as_tensor([sample[key] for sample in batch])
        collated[key] = [rows.transpose(0, 1).reshape(-1, *rows.shape[2:])]
    return collated


def _stack(crops: Sequence[Tensor]) -> Tensor:
    """(B, C, H, W), one copy of each crop.

    Within a worker the copy goes to memory that the trainer's process shares.
    """
    return torch.stack(list(crops), out=_shared(crops))


def _shared(rows: Sequence[Tensor]) -> Tensor | None:
    if torch.utils.data.get_worker_info() is None:
        return None
    count = len(rows) * rows[0].numel()
    storage = rows[0]._typed_storage()._new_shared(count, device=rows[0].device)
    return rows[0].new(storage).resize_(len(rows), *rows[0].shape)


def _pad(images: Sequence[DecodedImage]) -> list[Any]:
    sizes = torch.tensor([image.levels.shape[:0:-1] for image in images])
    width, height = sizes.amax(dim=0).tolist()
    channels = images[0].levels.shape[0]
    padded = torch.zeros(len(images), channels, height, width, dtype=torch.uint8)
    for row, image in zip(padded, images, strict=True):
        row[:, : image.levels.shape[1], : image.levels.shape[2]] = image.levels
    keys = np.array([image.key for image in images], np.int64)
    return [padded, sizes.numpy(), keys]
