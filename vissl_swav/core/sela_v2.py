"""SeLa-v2 (SwAV, appendix D): labels under equal partition, trained prototypes.

Where the paper is silent (the reasons stand in docs/method.md): epsilon acts on the
cosines S as in SwAV, whose hyper-parameters SeLa-v2 shares, not on S / tau; head j is
assigned by bank j mod M, as in DeepCluster-v2; labels are hard.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vissl_swav.core.balanced_labels import (
    MAX_ITERATIONS,
    TOLERANCE,
    balanced_labels_of_heads,
    check_settings,
)
from vissl_swav.core.collective import Collective
from vissl_swav.core.offline_clustering import Assignment, OfflineClustering
from vissl_swav.core.sinkhorn import EPSILON
from vissl_swav.core.swapped_prediction import TEMPERATURE


class SeLaV2(OfflineClustering):
    """See `OfflineClustering` for the cycle and the first arguments.

    Args:
        num_images: N.
        num_crops: V.
        num_prototypes: K of each head.
        embedding_dim: D.
        crops_for_assign: crops whose features are kept.
        temperature: tau.
        bank_dtype: of the stored features.
        epsilon: entropy weight of the codes, on the cosines.
        tolerance: largest relative error of a prototype's share at which to stop.
        max_iterations: of Sinkhorn.
        num_labels: 1 for hard labels, as SeLa's; L > 1 keeps the L largest entries of
            the soft code.
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
        epsilon: float = EPSILON,
        tolerance: float = TOLERANCE,
        max_iterations: int = MAX_ITERATIONS,
        num_labels: int = 1,
    ):
        super().__init__(
            num_images=num_images,
            num_crops=num_crops,
            num_prototypes=num_prototypes,
            embedding_dim=embedding_dim,
            crops_for_assign=crops_for_assign,
            temperature=temperature,
            bank_dtype=bank_dtype,
            num_labels=num_labels,
        )
        check_settings(epsilon, tolerance, max_iterations, num_labels, num_prototypes)
        self.epsilon, self.tolerance = epsilon, tolerance
        self.max_iterations, self.num_labels = max_iterations, num_labels

    def _assign(
        self, prototypes: Sequence[Tensor], *, seed: int, collective: Collective
    ) -> tuple[Tensor, Tensor | None, Assignment]:
        """By the trained prototypes, over the whole bank."""
        results = balanced_labels_of_heads(
            self.features_of_heads(),
            prototypes,
            epsilon=self.epsilon,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            num_labels=self.num_labels,
            collective=collective,
        )
        labels = torch.stack([result.labels for result in results])
        weights = torch.stack([result.weights for result in results])
        local = torch.cat(
            [
                torch.bincount(result.labels[:, 0], minlength=K)
                for result, K in zip(results, self.num_prototypes, strict=True)
            ]
        )
        sizes = collective.all_reduce_sum(local)
        found = Assignment(
            prototypes=[C.detach() for C in prototypes],
            cluster_sizes=list(torch.split(sizes, list(self.num_prototypes))),
            objective=[result.objective for result in results],
            num_iterations=results[0].num_iterations,
            error=max(result.error for result in results),
        )
        return labels, weights, found
