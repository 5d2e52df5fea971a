"""The nearest centroid by flash-kmeans: one fused GPU kernel, no N x K matrix.

Triton kernels of arXiv 2603.09229 (`pip install flash-kmeans`; read at 0.3.1). The
kernel multiplies float32 in TF32, so a label may be that of a centroid whose cosine is
within about 1e-3 of the best; the similarities are exact. `TorchNearest` has no such
slack.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

# The kernel is compiled for a number of rows: few pieces, and small beside a bank.
_ROWS = 262144

Kernel = Callable[[Tensor, Tensor], Tensor]


def has_flash_kmeans() -> bool:
    """Whether the module `flash_kmeans` is installed."""
    return find_spec("flash_kmeans") is not None


class FlashNearest:
    """Finds nearest centroids by flash-kmeans; features on a CUDA device only.

    Raises:
        ImportError: flash-kmeans is not installed; says how to get it, or to do
            without.
    """

    def __init__(self) -> None:
        if not has_flash_kmeans():
            raise ImportError(
                "flash-kmeans is not installed; `pip install flash-kmeans` (CUDA and "
                "Triton), or take core.nearest_centroid.TorchNearest, which needs "
                "nothing."
            )

    @torch.no_grad()
    def __call__(self, features: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """See `core.nearest_centroid.Nearest`; compares in TF32.

        Raises:
            RuntimeError: the features do not lie on a CUDA device.
        """
        if not features.is_cuda:
            raise RuntimeError(
                f"features lie on {features.device}, but flash-kmeans needs a CUDA "
                "device; move them there, or take core.nearest_centroid.TorchNearest "
                "or backends.faiss_nearest.FaissNearest."
            )
        from flash_kmeans.assign_euclid_triton import (  # pyright: ignore
            cosine_assign_triton,
        )

        with torch.cuda.device(features.device):  # Triton launches on the current one.
            return nearest_by(cosine_assign_triton, features, centroids)


def nearest_by(
    kernel: Kernel, features: Tensor, centroids: Tensor
) -> tuple[Tensor, Tensor]:
    """Labels from a kernel that gives labels alone, in pieces of the rows.

    Args:
        kernel: (1, N, D), (1, K, D), contiguous and of one type -> (1, N) integers.
        features: (N, D), converted to float32 piece by piece where they are not.
        centroids: (K, D).

    Returns:
        As `core.nearest_centroid.Nearest`; similarities by a dot product a row.
    """
    C = centroids.float().contiguous()
    indices = torch.empty(features.shape[0], dtype=torch.long, device=features.device)
    similarities = centroids.new_empty(features.shape[0])
    for start in range(0, features.shape[0], _ROWS):
        part = slice(start, start + _ROWS)
        rows = features[part].float().contiguous()
        labels = kernel(rows.unsqueeze(0), C.unsqueeze(0))[0].long()
        indices[part] = labels
        similarities[part] = (C[labels] * rows).sum(dim=1).to(centroids.dtype)
    return indices, similarities
