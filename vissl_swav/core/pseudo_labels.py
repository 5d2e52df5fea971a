"""Pseudo-labels of all images, on every process.

An image is seen by another process in every epoch, so the labels that a process found
for its rows of the bank are told to all. `H` heads (clusterings), `N` images, `L`
labels an image: 1, or the L largest entries of a soft code.
"""

import torch
from torch import Tensor, nn

from vissl_swav.core.collective import LOCAL, Collective

NO_LABEL = -1


class PseudoLabels(nn.Module):
    """Buffers `labels (H, N, L)`, int32, and `weights (H, N, L)`, summing to 1.

    An image without a label has `NO_LABEL` and weight 0. With L = 1 every weight is 1,
    and none are stored.

    Args:
        num_heads: H.
        num_images: N.
        num_labels: L.
    """

    labels: Tensor
    weights: Tensor | None

    def __init__(self, *, num_heads: int, num_images: int, num_labels: int = 1):
        super().__init__()
        shape = (num_heads, num_images, num_labels)
        if min(shape) < 1:
            raise ValueError(f"got (heads, images, labels) {shape}; wanted each >= 1.")
        none = torch.full(shape, NO_LABEL, dtype=torch.int32)
        self.register_buffer("labels", none)
        self.register_buffer("weights", torch.zeros(shape) if num_labels > 1 else None)

    @torch.no_grad()
    def publish(
        self,
        images: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        *,
        collective: Collective = LOCAL,
    ) -> None:
        """Replaces all labels by those that the processes found.

        Args:
            images: (n,) the images of this process; each belongs to one process.
            labels: (H, n, L).
            weights: (H, n, L); wanted where L > 1.
            collective: the processes.
        """
        # Shifted by one: a sum over processes leaves 0 where nobody has a label.
        told = torch.zeros_like(self.labels)
        told[:, images] = labels.to(told) + 1
        self.labels.copy_(collective.all_reduce_sum(told) - 1)
        if self.weights is not None:
            assert weights is not None
            shares = torch.zeros_like(self.weights)
            shares[:, images] = weights.to(shares)
            self.weights.copy_(collective.all_reduce_sum(shares))

    def of(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (H, B, L) int64 and weights (H, B, L) of images (B,).

        Where there is no label, label 0 with weight 0.
        """
        labels = self.labels[:, images].long()
        known = labels != NO_LABEL
        weights = known.float() if self.weights is None else self.weights[:, images]
        return labels.clamp_min(0), weights
