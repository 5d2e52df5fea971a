"""Collator `multi_crop_collator`: a batch of crop lists to one tensor per crop."""

from collections.abc import Sequence
from typing import Any

import torch
from vissl.data.collators import register_collator

from vissl_swav.host.settings import COLLATOR_NAME


@register_collator(COLLATOR_NAME)
def multi_crop_collator(batch: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stacks samples crop by crop.

    Args:
        batch: B samples; `data` holds V crops (C, H, W), `label`, `data_valid` and
            `data_idx` one value a crop.

    Returns:
        `data` [[V tensors (B, C, H, W)]]; the others [tensor (V * B,)], crop-major.
    """
    crops = zip(*(sample["data"] for sample in batch), strict=True)
    collated: dict[str, Any] = {"data": [[torch.stack(crop) for crop in crops]]}
    for key in ("label", "data_valid", "data_idx"):
        rows = torch.as_tensor([sample[key] for sample in batch])
        collated[key] = [rows.transpose(0, 1).reshape(-1, *rows.shape[2:])]
    return collated
