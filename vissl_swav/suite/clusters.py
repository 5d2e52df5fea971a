"""Clusters of a set of images from unit features and prototypes, and what they are.

`Z (N, D)` features, `C (K, D)` prototypes, unit rows both; cosines S = Z C^T. An
image's values over the K prototypes are, by mode,

======== ================================= ===========================================
argmax   S                                 each image by itself
softmax  softmax(S / temperature)          each image by itself; clusters as by argmax
sinkhorn softmax(S / eps + v)              v (K,) such that every prototype has N / K of
                                           the N images: another set, other clusters
======== ================================= ===========================================

The cluster is the largest value, the score is that value, and the margin is its
distance to the next one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vissl_swav.core.balanced_labels import balanced_labels
from vissl_swav.core.nearest_centroid import rows_per_chunk

MODES = ("argmax", "softmax", "sinkhorn")
DUPLICATE_COSINE = 0.95
"""Prototypes from here on count as one (docs/clusters.md)."""
_MAX_BYTES = 128 * 2**20


@dataclass(frozen=True)
class Assignment:
    """One head's clusters of N images.

    Attributes:
        cluster: (N,) int64.
        score: (N,) float32.
        margin: (N,) float32, >= 0.
        error: sinkhorn: largest relative error of a prototype's share, else None.
    """

    cluster: Tensor
    score: Tensor
    margin: Tensor
    error: float | None = None


@torch.no_grad()
def assign(
    features: Tensor,
    prototypes: Tensor,
    *,
    mode: str,
    temperature: float,
    epsilon: float,
) -> Assignment:
    """The cluster of each image under one head.

    Args:
        features: Z (N, D), unit rows, N >= 1.
        prototypes: C (K, D), unit rows.
        mode: one of `MODES`.
        temperature: of the softmax.
        epsilon: of the Sinkhorn problem.

    Raises:
        ValueError: an unknown mode, or no image.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; wanted one of {', '.join(MODES)}.")
    if not len(features):
        raise ValueError("there is no image to assign; wanted one at least.")
    error, scaling = None, None
    if mode == "sinkhorn":
        solved = balanced_labels(features, prototypes, epsilon=epsilon)
        error, scaling = solved.error, solved.log_scaling.to(features.dtype)
    clusters, scores, margins = [], [], []
    for rows in torch.split(features, rows_per_chunk(len(prototypes), 4, _MAX_BYTES)):
        values = rows @ prototypes.t()
        if mode == "softmax":
            values = (values / temperature).softmax(dim=1)
        elif scaling is not None:
            values = (values / epsilon + scaling).softmax(dim=1)
        # A head of one prototype has no second.
        largest, order = values.topk(min(2, values.shape[1]), dim=1)
        clusters.append(order[:, 0])
        scores.append(largest[:, 0])
        margins.append(largest[:, 0] - largest[:, -1])
    return Assignment(torch.cat(clusters), torch.cat(scores), torch.cat(margins), error)


def duplicates(
    prototypes: Tensor, *, cosine: float = DUPLICATE_COSINE
) -> list[tuple[int, int, float]]:
    """Prototypes that point where an earlier one does: (number, earlier one, cosine).

    Each is named once, with the nearest of the earlier ones; K minus their number is
    how many are distinct.

    Args:
        prototypes: C (K, D), unit rows.
        cosine: from here on two are one.
    """
    found: list[tuple[int, int, float]] = []
    chunk = rows_per_chunk(len(prototypes), 4, _MAX_BYTES)
    for start in range(0, len(prototypes), chunk):
        cosines = prototypes[start : start + chunk] @ prototypes.t()
        cosines = cosines.tril(diagonal=start - 1)  # Column < row: the earlier ones.
        best, earlier = cosines.max(dim=1)
        for row in torch.nonzero(best >= cosine).flatten().tolist():
            found.append((start + row, int(earlier[row]), float(best[row])))
    return found


def sizes(cluster: Tensor, num_prototypes: int) -> Tensor:
    """(K,) int64, images of each cluster."""
    return torch.bincount(cluster, minlength=num_prototypes)


def contingency(cluster: Tensor, labels: Tensor) -> Tensor:
    """(clusters that occur, labels that occur) float64: images of each pair."""
    rows = torch.unique(cluster, return_inverse=True)[1]
    columns = torch.unique(labels, return_inverse=True)[1]
    width = int(columns.max()) + 1
    pairs = torch.bincount(
        rows * width + columns, minlength=(int(rows.max()) + 1) * width
    )
    return pairs.reshape(-1, width).double()


def purity(cluster: Tensor, labels: Tensor) -> float:
    """Share of images whose label is the commonest of their cluster.

    1 where there are as many clusters as images, whatever they are: compare it at equal
    K only.
    """
    table = contingency(cluster, labels)
    return float(table.max(dim=1).values.sum() / table.sum())


def normalized_mutual_information(cluster: Tensor, labels: Tensor) -> float:
    """I(cluster; label) over the mean of both entropies, in [0, 1].

    1 where the two are one partition under two names, 0 where one tells nothing of the
    other; both constant is 1, one of them is 0.
    """
    joint = contingency(cluster, labels)
    joint = joint / joint.sum()
    rows, columns = joint.sum(dim=1), joint.sum(dim=0)
    mean = (_entropy(rows) + _entropy(columns)) / 2
    if mean == 0:
        return 1.0
    information = _entropy(rows) + _entropy(columns) - _entropy(joint.flatten())
    return max(0.0, min(1.0, information / mean))


def balance(counts: Tensor) -> float:
    """Entropy of the sizes over ln K: 1 for equal sizes, 0 for a single cluster."""
    if len(counts) < 2:
        return 1.0
    return _entropy(counts.double() / counts.sum()) / math.log(len(counts))


def top_images(assigned: Assignment, cluster: int, count: int) -> list[int]:
    """Places of the cluster's images with the largest scores, best first."""
    (members,) = torch.nonzero(assigned.cluster == cluster, as_tuple=True)
    order = torch.argsort(assigned.score[members], descending=True, stable=True)
    return members[order[:count]].tolist()


def common_label(cluster_labels: Tensor, names: Sequence[str] | None) -> str:
    """The commonest label of a cluster and its share: ``dog 83 %``."""
    values, counts = torch.unique(cluster_labels, return_counts=True)
    best = int(counts.argmax())
    label = int(values[best])
    name = names[label] if names is not None else f"label {label}"
    return f"{name} {100 * int(counts[best]) / len(cluster_labels):.0f} %"


def _entropy(shares: Tensor) -> float:
    return float(-torch.special.xlogy(shares, shares).sum())
