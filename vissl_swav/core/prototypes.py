"""Prototypes: rows of unit length, no bias (SwAV, section 3.1 and A.1).

`C (K, D)` prototypes, `Z (B, D)` unit features; scores S = Z C^T are cosines only while
the rows of C have unit length, so they are normalised before every forward pass, the
first one included.

They keep float32, and scores are computed in it: Sinkhorn divides them by 0.05, and a
score rounded to bfloat16 is off by up to 0.002. Beside the encoder the product costs
nothing.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vissl_swav.core.setting_checks import check_num_prototypes, check_whole


@torch.no_grad()
def normalize_rows_(weight: Tensor) -> Tensor:
    """Scales every row of `weight` (K, D) to unit length, in place.

    A row of zeros stays as it is, and so does one that has unit length up to rounding:
    to normalise twice is to normalise once, bit for bit (a resumed run starts with it).
    Rows may be sharded over processes (a DTensor): each normalises its own.

    Raises:
        ValueError: `weight` is no matrix.
    """
    if weight.ndim != 2:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; wanted rows, (K, D). "
            "FullyShardedDataParallel flattens what it wraps: keep the prototypes "
            "outside of it, in a DistributedDataParallel of their own."
        )
    lengths = weight.square().sum(dim=1, keepdim=True).sqrt()
    is_unit = (lengths - 1).abs() <= 8 * torch.finfo(weight.dtype).eps
    scaled = nn.functional.normalize(weight, dim=1)
    return weight.copy_(torch.where(is_unit, weight, scaled))


class Prototypes(nn.Module):
    """One or several sets of prototypes.

    With mixed-precision parameters elsewhere these stay float32: do not cast the module
    (`model.bfloat16()`), and give it a `fully_shard` of its own without a policy.

    Args:
        dim: D.
        num_prototypes: K of each head.
        trainable: False gives the paper's fixed random prototypes (Table 13: 73.1
            against 73.9 for learned ones).
    """

    def __init__(
        self,
        dim: int,
        num_prototypes: Sequence[int] = (3000,),
        *,
        trainable: bool = True,
    ):
        super().__init__()
        check_whole("dim", dim, least=1)
        self.heads = nn.ModuleList(
            nn.Linear(dim, count, bias=False)
            for count in check_num_prototypes(num_prototypes)
        )
        self.requires_grad_(trainable)
        self.normalize_()

    def normalize_(self) -> None:
        """Puts all rows back to unit length; call it after every optimiser step."""
        for weight in self.parameters():
            normalize_rows_(weight)

    def weights(self) -> list[Tensor]:
        """C (K, D) of each head, without a gradient; for a queue or k-means, say.

        Where `fully_shard` has sharded the rows they are gathered: all processes call.
        """
        return [_whole(weight.detach()) for weight in self.parameters()]

    def forward(self, features: Tensor) -> list[Tensor]:
        """Scores (..., K) of unit features (..., D), one tensor per head.

        In the prototypes' own precision, whatever the features have, autocast or not.
        """
        with torch.autocast(features.device.type, enabled=False):
            heads = zip(self.heads, self.parameters(), strict=True)
            return [head(features.to(weight.dtype)) for head, weight in heads]


def _whole(weight: Any) -> Tensor:
    """A tensor as it is; a DTensor gathered."""
    # The type first: torch 2.4 cannot compile `hasattr` of a tensor.
    if type(weight) is Tensor or not hasattr(weight, "full_tensor"):
        return weight
    return weight.full_tensor()
