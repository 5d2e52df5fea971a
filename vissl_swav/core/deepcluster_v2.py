"""DeepCluster-v2 (SwAV, appendix D): labels and prototypes from spherical k-means.

The prototypes of an epoch are the centroids (eq. 11); they get no gradient (eq. 9).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vissl_swav.core.collective import Collective
from vissl_swav.core.kmeans import NUM_ITERATIONS, spherical_kmeans_of_heads
from vissl_swav.core.kmeans_inputs import check_settings
from vissl_swav.core.nearest_centroid import Nearest
from vissl_swav.core.offline_clustering import Assignment, OfflineClustering
from vissl_swav.core.swapped_prediction import TEMPERATURE


class DeepClusterV2(OfflineClustering):
    """See `OfflineClustering` for the cycle and the first arguments.

    Args:
        num_images: N.
        num_crops: V.
        num_prototypes: K of each clustering.
        embedding_dim: D.
        crops_for_assign: crops whose features are kept.
        temperature: tau.
        bank_dtype: of the stored features.
        num_iterations: k-means iterations.
        tolerance: of k-means; None for all iterations.
        seeding: "random" or "k-means++".
        empty_clusters: "split", "keep" or "error".
        nearest: finds nearest centroids.
    """

    def __init__(
        self,
        *,
        num_images: int,
        num_crops: int,
        num_prototypes: Sequence[int],
        embedding_dim: int,
        crops_for_assign: Sequence[int] | None = None,
        temperature: float = TEMPERATURE,
        bank_dtype: str = "float32",
        num_iterations: int = NUM_ITERATIONS,
        tolerance: float | None = None,
        seeding: str = "random",
        empty_clusters: str = "split",
        nearest: Nearest | None = None,
    ):
        super().__init__(
            num_images=num_images,
            num_crops=num_crops,
            num_prototypes=num_prototypes,
            embedding_dim=embedding_dim,
            crops_for_assign=crops_for_assign,
            temperature=temperature,
            bank_dtype=bank_dtype,
        )
        check_settings(num_iterations, tolerance, seeding, empty_clusters)
        self.num_iterations, self.tolerance = num_iterations, tolerance
        self.seeding, self.empty_clusters = seeding, empty_clusters
        self.nearest = nearest

    def _assign(
        self, prototypes: Sequence[Tensor], *, seed: int, collective: Collective
    ) -> tuple[Tensor, Tensor | None, Assignment]:
        """Fresh centroids from rows of the bank, as the authors' code."""
        results = spherical_kmeans_of_heads(
            self.features_of_heads(),
            num_clusters=self.num_prototypes,
            num_iterations=self.num_iterations,
            tolerance=self.tolerance,
            seeding=self.seeding,
            row_ids=self.bank.images(),
            empty_clusters=self.empty_clusters,
            generator=torch.Generator().manual_seed(seed),
            nearest=self.nearest,
            collective=collective,
        )
        labels = torch.stack([result.assignments for result in results])
        found = Assignment(
            prototypes=[result.centroids for result in results],
            cluster_sizes=[result.counts for result in results],
            objective=[float(result.objective[-1]) for result in results],
            num_iterations=len(results[0].objective) - 1,
        )
        return labels.unsqueeze(2), None, found
