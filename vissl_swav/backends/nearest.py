"""Which implementation finds nearest centroids."""

from vissl_swav.backends.faiss_nearest import FaissNearest
from vissl_swav.core.nearest_centroid import Nearest, TorchNearest


def choose(name: str = "auto") -> Nearest:
    """The implementation called `name`.

    Args:
        name: "torch", "faiss", "flash" (flash-kmeans, GPU only), or "auto": torch,
            the fastest where the CPU multiplies bfloat16 (docs/results.md).

    Raises:
        ImportError: its library is not installed.
        ValueError: an unknown name.
    """
    if name in ("auto", "torch"):
        return TorchNearest()
    if name == "faiss":
        return FaissNearest()
    if name == "flash":
        from vissl_swav.backends.flash_nearest import FlashNearest

        return FlashNearest()
    raise ValueError(f"nearest is {name!r}; wanted auto, torch, faiss or flash.")
