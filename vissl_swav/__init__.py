"""SwAV and its family for VISSL, and as plain PyTorch parts.

Importing this package imports nothing heavy: public names load on first use. The parts
(`sinkhorn`, `swapped_prediction_loss`, `FeatureQueue`, ...) need torch alone; the host
layer (`vissl_swav.host`) needs VISSL.
"""

# Loaded at interpreter start by `vissl_swav.pth`: not even `typing` is imported here.
TYPE_CHECKING = False

__version__ = "0.1.0"

# The stable names, each on a page of docs/parts; tests/test_public_api.py pins them.
_PUBLIC = {
    "Assignment": "vissl_swav.core.offline_clustering",
    "BalancedLabels": "vissl_swav.core.balanced_labels",
    "FaissNearest": "vissl_swav.backends.faiss_nearest",
    "KMeansResult": "vissl_swav.core.kmeans",
    "Nearest": "vissl_swav.core.nearest_centroid",
    "TorchNearest": "vissl_swav.core.nearest_centroid",
    "balanced_labels": "vissl_swav.core.balanced_labels",
    "spherical_kmeans": "vissl_swav.core.kmeans",
    "cluster_prediction_loss": "vissl_swav.core.cluster_prediction",
    "MemoryBank": "vissl_swav.core.memory_bank",
    "SeLaV2": "vissl_swav.core.sela_v2",
    "DeepClusterV2": "vissl_swav.core.deepcluster_v2",
    "CropLayout": "vissl_swav.core.crops",
    "FeatureQueue": "vissl_swav.core.feature_queue",
    "LOCAL": "vissl_swav.core.collective",
    "Collective": "vissl_swav.core.collective",
    "BatchedMultiCrop": "vissl_swav.transforms.batched_multicrop",
    "MultiCrop": "vissl_swav.transforms.multicrop",
    "Prototypes": "vissl_swav.core.prototypes",
    "SwAV": "vissl_swav.core.swav",
    "collective": "vissl_swav.backends.torch_collective",
    "load_into": "vissl_swav.weights.matching",
    "load_weights": "vissl_swav.weights.loading",
    "normalize_rows_": "vissl_swav.core.prototypes",
    "predictor": "vissl_swav.suite.predictor",
    "simclr_multicrop_loss": "vissl_swav.core.simclr_multicrop",
    "sinkhorn": "vissl_swav.core.sinkhorn",
    "swapped_prediction_loss": "vissl_swav.core.swapped_prediction",
    "momentum_at": "vissl_swav.core.momentum",
    "momentum_copy": "vissl_swav.core.momentum",
    "update_momentum_": "vissl_swav.core.momentum",
}

__all__ = ["__version__", *sorted(_PUBLIC)]

if TYPE_CHECKING:
    from vissl_swav.backends.faiss_nearest import FaissNearest as FaissNearest
    from vissl_swav.backends.torch_collective import collective as collective
    from vissl_swav.core.balanced_labels import BalancedLabels as BalancedLabels
    from vissl_swav.core.balanced_labels import balanced_labels as balanced_labels
    from vissl_swav.core.cluster_prediction import (
        cluster_prediction_loss as cluster_prediction_loss,
    )
    from vissl_swav.core.collective import LOCAL as LOCAL
    from vissl_swav.core.collective import Collective as Collective
    from vissl_swav.core.crops import CropLayout as CropLayout
    from vissl_swav.core.deepcluster_v2 import DeepClusterV2 as DeepClusterV2
    from vissl_swav.core.feature_queue import FeatureQueue as FeatureQueue
    from vissl_swav.core.kmeans import KMeansResult as KMeansResult
    from vissl_swav.core.kmeans import spherical_kmeans as spherical_kmeans
    from vissl_swav.core.memory_bank import MemoryBank as MemoryBank
    from vissl_swav.core.momentum import momentum_at as momentum_at
    from vissl_swav.core.momentum import momentum_copy as momentum_copy
    from vissl_swav.core.momentum import update_momentum_ as update_momentum_
    from vissl_swav.core.nearest_centroid import Nearest as Nearest
    from vissl_swav.core.nearest_centroid import TorchNearest as TorchNearest
    from vissl_swav.core.offline_clustering import Assignment as Assignment
    from vissl_swav.core.prototypes import Prototypes as Prototypes
    from vissl_swav.core.prototypes import normalize_rows_ as normalize_rows_
    from vissl_swav.core.sela_v2 import SeLaV2 as SeLaV2
    from vissl_swav.core.simclr_multicrop import (
        simclr_multicrop_loss as simclr_multicrop_loss,
    )
    from vissl_swav.core.sinkhorn import sinkhorn as sinkhorn
    from vissl_swav.core.swapped_prediction import (
        swapped_prediction_loss as swapped_prediction_loss,
    )
    from vissl_swav.core.swav import SwAV as SwAV
    from vissl_swav.suite.predictor import predictor as predictor
    from vissl_swav.transforms.batched_multicrop import (
        BatchedMultiCrop as BatchedMultiCrop,
    )
    from vissl_swav.transforms.multicrop import MultiCrop as MultiCrop
    from vissl_swav.weights.loading import load_weights as load_weights
    from vissl_swav.weights.matching import load_into as load_into


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        from importlib import import_module

        value = getattr(import_module(_PUBLIC[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
