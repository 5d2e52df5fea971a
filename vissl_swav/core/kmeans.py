"""Spherical k-means over the rows of all processes (SwAV, eq. 11).

    min over unit centroids C of  - 1/N sum_n max_k <z_n, c_k>

`Z (N, D)` unit features, of which each process holds its own rows; `C (K, D)` unit
centroids, the same on every process. One iteration: every row to its nearest centroid;
every centroid to the sum of its rows, scaled to unit length. Only the seeds, and once
an iteration the sums, counts and objective of all heads in one reduction, cross
processes. Memory beside the rows: the centroids, a label and a similarity a row, and
what `nearest` is allowed (never N x K).

The objective never rises from one iteration to the next, except where an empty cluster
was given a new centroid.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vissl_swav.core.collective import LOCAL, Collective
from vissl_swav.core.empty_clusters import EMPTY_RULES, EmptyRule, refuse
from vissl_swav.core.kmeans_inputs import agree, check_settings
from vissl_swav.core.nearest_centroid import Nearest, TorchNearest
from vissl_swav.core.outside_graphs import outside_graphs
from vissl_swav.core.precision import exact_dtype
from vissl_swav.core.seeding import SEEDINGS

NUM_ITERATIONS = 10
"""The paper's code."""


@dataclass(frozen=True)
class KMeansResult:
    """One clustering.

    Attributes:
        centroids: C (K, D), unit rows, the same on every process.
        assignments: (N_local,) int64, each row's nearest centroid.
        objective: (iterations + 1,) eq. 11 before the first update and after each; the
            last is that of `centroids` and `assignments`.
        counts: (K,) int64, rows of each cluster over all processes.
    """

    centroids: Tensor
    assignments: Tensor
    objective: Tensor
    counts: Tensor


def spherical_kmeans(
    features: Tensor,
    *,
    num_clusters: int,
    num_iterations: int = NUM_ITERATIONS,
    tolerance: float | None = None,
    initial_centroids: Tensor | None = None,
    seeding: str = "random",
    row_ids: Tensor | None = None,
    empty_clusters: str = "split",
    generator: torch.Generator | None = None,
    nearest: Nearest | None = None,
    collective: Collective = LOCAL,
) -> KMeansResult:
    """Clusters the rows of all processes.

    Args:
        features: (N_local, D) unit rows of this process; float32, float64, or a half
            type, for which the sums are float32.
        num_clusters: K.
        num_iterations: updates of the centroids, at most.
        tolerance: stop when an update lowers the objective by no more than this.
        initial_centroids: (K, D); if None, they are drawn as `seeding` says.
        seeding: "random" rows or "k-means++" (see `core.seeding`).
        row_ids: (N_local,) int64, different for all rows of all processes; with them
            the seeds do not depend on the sharding. Rows in rank order by default.
        empty_clusters: "split" the largest with fresh noise, "keep" the centroid, or
            "error" (see `core.empty_clusters`).
        generator: gives the seed of all draws; rank 0's counts. torch's if None.
        nearest: finds nearest centroids; `TorchNearest` by default.
        collective: the processes that hold the rows.

    Returns:
        See `KMeansResult`.

    Raises:
        ValueError: on every process alike: a process without rows, more clusters than
            rows, values that are not finite, shapes that do not fit.
    """
    return spherical_kmeans_of_heads(
        [features],
        num_clusters=[num_clusters],
        num_iterations=num_iterations,
        tolerance=tolerance,
        initial_centroids=None if initial_centroids is None else [initial_centroids],
        seeding=seeding,
        row_ids=row_ids,
        empty_clusters=empty_clusters,
        generator=generator,
        nearest=nearest,
        collective=collective,
    )[0]


@outside_graphs
@torch.no_grad()
def spherical_kmeans_of_heads(
    features: Sequence[Tensor],
    *,
    num_clusters: Sequence[int],
    num_iterations: int = NUM_ITERATIONS,
    tolerance: float | None = None,
    initial_centroids: Sequence[Tensor] | None = None,
    seeding: str = "random",
    row_ids: Tensor | None = None,
    empty_clusters: str = "split",
    generator: torch.Generator | None = None,
    nearest: Nearest | None = None,
    collective: Collective = LOCAL,
) -> list[KMeansResult]:
    """Independent clusterings in step: one reduction an iteration for all of them.

    Arguments as `spherical_kmeans`, one tensor and one K a clustering; heads that share
    a bank may name the same tensor. `tolerance` stops when all clusterings are within.
    """
    nearest = nearest or TorchNearest()
    check_settings(num_iterations, tolerance, seeding, empty_clusters)
    seed, first_id = agree(
        features, num_clusters, initial_centroids, row_ids, generator, collective
    )
    if row_ids is None:
        row_ids = torch.arange(features[0].shape[0], device=features[0].device)
        row_ids = row_ids + first_id
    row_ids = row_ids.to(features[0].device)
    heads: list[_Clustering] = []
    for index, (Z, K) in enumerate(zip(features, num_clusters, strict=True)):
        if initial_centroids is not None:
            start = initial_centroids[index]
        else:
            start = SEEDINGS[seeding](
                Z,
                K,
                seed=seed + index,
                row_ids=row_ids,
                nearest=nearest,
                collective=collective,
            )
        C = torch.nn.functional.normalize(start.to(exact_dtype(Z.dtype)), dim=1)
        heads.append(_Clustering(Z, C, nearest))
    for iteration in range(num_iterations + 1):
        summed = collective.all_reduce_sum(torch.cat([h.assign() for h in heads]))
        widths = [head.width for head in heads]
        for head, of_head in zip(heads, torch.split(summed, widths), strict=True):
            head.take(of_head)
        within = tolerance is not None and all(h.gain <= tolerance for h in heads)
        if iteration == num_iterations or within:
            break
        for index, head in enumerate(heads):
            draw = seed + (iteration + 1) * len(heads) + index
            head.update(EMPTY_RULES[empty_clusters], draw)
    if empty_clusters == "error":
        for head in heads:
            head.refuse_empty()
    return [head.result() for head in heads]


class _Clustering:
    """One head between two reductions."""

    def __init__(self, features: Tensor, centroids: Tensor, nearest: Nearest):
        self._Z, self._nearest = features, nearest
        self._centroids = centroids
        self._labels = torch.empty(0, dtype=torch.long)
        self._sums, self._counts = self._labels, self._labels
        self._objective: list[float] = []
        self.width = centroids.numel() + centroids.shape[0] + 1

    @property
    def gain(self) -> float:
        """By how much the last update lowered the objective."""
        before = self._objective[-2] if len(self._objective) > 1 else float("inf")
        return before - self._objective[-1]

    def assign(self) -> Tensor:
        """Sums (K, D), counts (K) and summed similarity of this process, as one row."""
        self._labels, similarities = self._nearest(self._Z, self._centroids)
        sums = cluster_sums(self._Z, self._labels, self._centroids)
        counts = torch.bincount(self._labels, minlength=self._centroids.shape[0])
        total = similarities.sum(dtype=torch.float64).to(sums.dtype).reshape(1)
        return torch.cat([sums.flatten(), counts.to(sums.dtype), total])

    def take(self, summed: Tensor) -> None:
        """What all processes found, in the form of `assign`."""
        K, D = self._centroids.shape
        summed = summed.to(self._centroids.dtype)  # Another head's may be wider.
        sums, counts, total = torch.split(summed, [K * D, K, 1])
        self._sums, self._counts = sums.view(K, D), counts.round().long()
        self._objective.append(-float(total) / int(self._counts.sum()))

    def update(self, empty_rule: EmptyRule, seed: int) -> None:
        """Centroids to the directions of their sums; a zero sum changes nothing."""
        lengths = self._sums.square().sum(dim=1, keepdim=True).sqrt()
        moved = self._sums / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
        self._centroids = torch.where(lengths > 0, moved, self._centroids)
        self._centroids = empty_rule(self._centroids, self._counts, seed)

    def refuse_empty(self) -> None:
        """The rule "error", for the last assignment, which no update follows."""
        refuse(self._centroids, self._counts, 0)

    def result(self) -> KMeansResult:
        objective = torch.tensor(self._objective, dtype=torch.float64)
        return KMeansResult(self._centroids, self._labels, objective, self._counts)


def cluster_sums(features: Tensor, assignments: Tensor, centroids: Tensor) -> Tensor:
    """The sum of each cluster's rows: (N, D), (N,) -> (K, D) of C's dtype."""
    size = features.shape[0]
    if features.dtype != centroids.dtype:
        size = min(size, 65536)  # Rows converted at a time.
    sums = torch.zeros_like(centroids)
    for start in range(0, features.shape[0], size):
        part = slice(start, start + size)
        rows, labels = features[part].to(sums.dtype), assignments[part]
        # Bags of sorted rows: 2 to 3 times as fast as index_add_ on a CPU, and no
        # atomic additions, whose order is by chance, on a GPU.
        counts = torch.bincount(labels, minlength=sums.shape[0])
        sums += torch.nn.functional.embedding_bag(
            labels.argsort(stable=True), rows, counts.cumsum(0) - counts, mode="sum"
        )
    return sums
