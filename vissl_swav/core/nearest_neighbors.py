"""k nearest neighbours as a classifier on frozen features.

The k training rows most similar to a test row vote for their labels, each with weight
``exp(similarity / temperature)``; the class with the largest sum wins. Similarity is
the inner product, the cosine for unit rows. As the temperature goes to infinity the
votes become equal; as it goes to 0 the nearest neighbour decides alone.

Source: Wu, Xiong, Yu, Lin, "Unsupervised feature learning via non-parametric instance
discrimination" (2018), arXiv 1805.01978, section 3.4.

Symbols: N training rows, M test rows, D dimension, C classes, k neighbours, T
temperature. Samples are rows. The search is `core.neighbor_search`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vissl_swav.core.collective import LOCAL, Collective
from vissl_swav.core.neighbor_search import Neighbors, Rows, nearest_neighbors

# Test rows whose votes stand in memory at a time.
_ROWS = 1024


def neighbor_votes(
    neighbors: Neighbors, *, num_neighbors: int, temperature: float, num_classes: int
) -> Tensor:
    """Return each class's share of the votes of the nearest `num_neighbors`.

    Args:
        neighbors: of M test rows, at least `num_neighbors` each.
        num_neighbors: k.
        temperature: T, above 0.
        num_classes: C, more than any label.

    Returns:
        (M, C) votes; the rows sum to 1. Summed in float64, so that the order of the
        sum, which a GPU does not fix, decides nothing.
    """
    similarity = neighbors.similarity[:, :num_neighbors].double()
    # The nearest has weight 1: exp(similarity / T) itself overflows at small T.
    weight = ((similarity - similarity[:, :1]) / temperature).exp()
    sums = weight.new_zeros(weight.shape[0], num_classes)
    sums.scatter_add_(1, neighbors.label[:, :num_neighbors], weight)
    share = sums / sums.sum(dim=1, keepdim=True)
    return share.to(neighbors.similarity.dtype)


def neighbor_classes(
    neighbors: Neighbors,
    *,
    num_neighbors: int,
    temperature: float,
    num_classes: int,
    num_predictions: int = 5,
) -> Tensor:
    """Return the classes with the most votes, best first.

    Args:
        neighbors: of M test rows, at least `num_neighbors` each.
        num_neighbors: k.
        temperature: T, above 0.
        num_classes: C, more than any label.
        num_predictions: classes to return; fewer if there are fewer classes.

    Returns:
        (M, min(num_predictions, C)) class indices. Classes with equal votes come in the
        order of their index.
    """
    best = [
        neighbor_votes(
            Neighbors(*(column[start : start + _ROWS] for column in neighbors)),
            num_neighbors=num_neighbors,
            temperature=temperature,
            num_classes=num_classes,
        )
        .sort(dim=1, descending=True, stable=True)
        .indices[:, :num_predictions]
        for start in range(0, neighbors.label.shape[0], _ROWS)
    ]
    count = min(num_predictions, num_classes)
    return torch.cat(best) if best else neighbors.label.new_zeros(0, count)


def knn_predict(
    train_features: Rows,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    num_neighbors: Sequence[int],
    temperatures: Sequence[float],
    num_predictions: int = 5,
    num_classes: int | None = None,
    chunk_size: int = 1024,
    train_chunk_size: int = 16384,
    collective: Collective = LOCAL,
    report: Callable[[int, int], object] | None = None,
) -> dict[tuple[int, float], Tensor]:
    """Return the best classes, best first, for each k and temperature; one search.

    Args:
        train_features: this process's part of the training rows, (n, D): a tensor, or
            anything that gives its slices (`neighbor_search.Rows`).
        train_labels: (n,) or (n, 1) integers in [0, C); rows of -1 are left out.
        test_features: (M, D), the same on all processes.
        num_neighbors: the k to try, each between 1 and the number of labelled rows.
        temperatures: the T to try, each above 0.
        num_predictions: classes to return; fewer if there are fewer classes.
        num_classes: C; by default the largest label of all processes plus one.
        chunk_size: test rows compared at once.
        train_chunk_size: training rows compared at once.
        collective: the processes, each with a part of the training rows.
        report: called with (training rows done, n) as the search goes on.

    Returns:
        (k, T) -> (M, min(num_predictions, C)) class indices, the same on all processes.

    Raises:
        ValueError: shapes that do not fit, or a number out of its range.
    """
    if not num_neighbors or not temperatures or min(temperatures) <= 0.0:
        raise ValueError(
            f"num_neighbors is {list(num_neighbors)} and temperatures "
            f"{list(temperatures)}; wanted one or more of each, the temperatures above "
            "0 (0.07 to 0.1 is usual)"
        )
    if min(num_neighbors) < 1:
        raise ValueError(f"num_neighbors is {list(num_neighbors)}; wanted 1 or more")
    neighbors = nearest_neighbors(
        train_features,
        train_labels,
        test_features,
        num_neighbors=max(num_neighbors),
        chunk_size=chunk_size,
        train_chunk_size=train_chunk_size,
        collective=collective,
        report=report,
    )
    num_classes = _num_classes(train_labels, num_classes, collective)
    return {
        (k, temperature): neighbor_classes(
            neighbors,
            num_neighbors=k,
            temperature=temperature,
            num_classes=num_classes,
            num_predictions=num_predictions,
        )
        for k in num_neighbors
        for temperature in temperatures
    }


def top_accuracy(predictions: Tensor, labels: Tensor, *, top: int) -> float:
    """Return the share of labelled rows whose label is among the first `top`.

    Args:
        predictions: (M, P), best first.
        labels: (M,) or (M, 1); rows of -1 have no label and do not count.
        top: how many predictions count; all P if it is larger.

    Returns:
        Between 0 and 1; NaN for no labelled rows.
    """
    labels = labels.reshape(-1)
    hits = (predictions[:, :top] == labels.view(-1, 1)).any(dim=1)
    return float(hits[labels >= 0].double().mean())


def _num_classes(labels: Tensor, wanted: int | None, collective: Collective) -> int:
    mine = labels.amax().view(1) if labels.numel() else labels.new_full((1,), -1)
    largest = int(collective.all_reduce_max(mine.long()))
    if wanted is None:
        return largest + 1
    if largest >= wanted:
        raise ValueError(
            f"a training label is {largest}, but num_classes is {wanted}; labels lie "
            "in [0, num_classes)"
        )
    return wanted
