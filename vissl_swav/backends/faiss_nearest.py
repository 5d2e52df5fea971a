"""The nearest centroid by faiss: labels as `core.nearest_centroid`, up to ties.

On a CPU the exact `IndexFlatIP`; on a GPU the rank's own device (never all of them),
which takes faiss built for GPUs.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

# Rows handed to faiss at a time, converted to float32 where they are not.
_ROWS = 65536


def has_faiss() -> bool:
    """Whether the module `faiss` is installed (faiss-cpu or faiss-gpu)."""
    return find_spec("faiss") is not None


class FaissNearest:
    """Finds nearest centroids by faiss.

    Raises:
        ImportError: faiss is not installed; says how to get it, or to do without.
    """

    def __init__(self) -> None:
        if not has_faiss():
            raise ImportError(
                "faiss is not installed; `pip install faiss-cpu` (or faiss-gpu), or "
                "take core.nearest_centroid.TorchNearest, which needs nothing."
            )
        self._resources: dict[int, Any] = {}

    @torch.no_grad()
    def __call__(self, features: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """See `core.nearest_centroid.Nearest`; compares in float32."""
        import faiss
        import faiss.contrib.torch_utils  # noqa: F401  # tensors in and out

        wanted = centroids.detach().float().contiguous()
        index: Any = faiss.IndexFlatIP(wanted.shape[1])
        if features.is_cuda:
            index = self._on_device(faiss, index, features.device)
        index.add(wanted)  # pyright: ignore[reportCallIssue]
        indices = torch.empty(
            features.shape[0], dtype=torch.long, device=features.device
        )
        similarities = wanted.new_empty(features.shape[0])
        for start in range(0, features.shape[0], _ROWS):
            part = slice(start, start + _ROWS)
            found = index.search(features[part].float().contiguous(), 1)
            similarities[part], indices[part] = found[0][:, 0], found[1][:, 0]
        return indices, similarities.to(centroids.dtype)

    def _on_device(self, faiss: Any, index: Any, device: torch.device) -> Any:
        if not hasattr(faiss, "StandardGpuResources"):
            raise RuntimeError(
                "features lie on a GPU, but faiss is built for the CPU; install "
                "faiss-gpu in its place, or take core.nearest_centroid.TorchNearest."
            )
        number = device.index or 0
        if number not in self._resources:
            self._resources[number] = faiss.StandardGpuResources()
        return faiss.index_cpu_to_gpu(self._resources[number], number, index)
