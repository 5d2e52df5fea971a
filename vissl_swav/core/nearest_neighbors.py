"""k nearest neighbours as a classifier on frozen features.

The k training rows most similar to a test row vote for their labels, each with weight
``exp(similarity / temperature)``; the class with the largest sum wins. Similarity is
the inner product, the cosine for unit rows. As the temperature goes to infinity the
votes become equal; as it goes to 0 the nearest neighbour decides alone.

Source: Wu, Xiong, Yu, Lin, "Unsupervised feature learning via non-parametric instance
discrimination" (2018), arXiv 1805.01978, section 3.4.

Symbols: N training rows, M test rows, D dimension, C classes, k neighbours, T
temperature. Samples are rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def knn_votes(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    num_neighbors: Sequence[int],
    temperature: float,
    num_classes: int | None = None,
    chunk_size: int = 1024,
) -> dict[int, Tensor]:
    """Return each class's share of the votes, for each number of neighbours.

    Works on the device of its inputs; memory holds ``chunk_size`` x N similarities.

    Args:
        train_features: (N, D).
        train_labels: (N,) integers in [0, C).
        test_features: (M, D).
        num_neighbors: the k to try, each between 1 and N.
        temperature: T, above 0.
        num_classes: C; by default the largest label plus one.
        chunk_size: test rows compared at once.

    Returns:
        k -> (M, C) votes, float32 at least; the rows sum to 1.

    Raises:
        ValueError: shapes that do not fit, or a number out of its range.
    """
    _check(train_features, train_labels, test_features, temperature, chunk_size)
    largest = _largest(num_neighbors, train_features.shape[0])
    if num_classes is None:
        num_classes = int(train_labels.max()) + 1
    elif not int(train_labels.max()) < num_classes:
        raise ValueError(
            f"a training label is {int(train_labels.max())}, but num_classes is "
            f"{num_classes}; labels lie in [0, num_classes)"
        )
    dtype = torch.promote_types(train_features.dtype, torch.float32)
    train = train_features.to(dtype)
    votes: dict[int, list[Tensor]] = {k: [] for k in num_neighbors}
    test = test_features.to(dtype)
    for start in range(0, test.shape[0], chunk_size):
        rows = test[start : start + chunk_size]
        similarity, index = (rows @ train.T).topk(largest, dim=1)
        # The nearest has weight 1: exp(similarity / T) itself overflows at small T.
        weight = ((similarity - similarity[:, :1]) / temperature).exp()
        labels = train_labels[index]
        for k, parts in votes.items():
            sums = rows.new_zeros(rows.shape[0], num_classes)
            sums.scatter_add_(1, labels[:, :k], weight[:, :k])
            parts.append(sums / sums.sum(dim=1, keepdim=True))
    empty = train.new_zeros(0, num_classes)
    return {k: torch.cat(parts) if parts else empty for k, parts in votes.items()}


def knn_predict(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    num_neighbors: Sequence[int],
    temperature: float,
    num_predictions: int = 5,
    num_classes: int | None = None,
    chunk_size: int = 1024,
) -> dict[int, Tensor]:
    """Return the best classes, best first, for each number of neighbours.

    Args:
        train_features: (N, D).
        train_labels: (N,) integers in [0, C).
        test_features: (M, D).
        num_neighbors: the k to try, each between 1 and N.
        temperature: T, above 0.
        num_predictions: classes to return; fewer if there are fewer classes.
        num_classes: C; by default the largest label plus one.
        chunk_size: test rows compared at once.

    Returns:
        k -> (M, min(num_predictions, C)) class indices. Classes with equal votes come
        in the order of their index.
    """
    votes = knn_votes(
        train_features,
        train_labels,
        test_features,
        num_neighbors=num_neighbors,
        temperature=temperature,
        num_classes=num_classes,
        chunk_size=chunk_size,
    )
    return {
        k: share.sort(dim=1, descending=True, stable=True).indices[:, :num_predictions]
        for k, share in votes.items()
    }


def top_accuracy(predictions: Tensor, labels: Tensor, *, top: int) -> float:
    """Return the share of rows whose label is among the first `top` predictions.

    Args:
        predictions: (M, P), best first.
        labels: (M,).
        top: how many predictions count; all P if it is larger.

    Returns:
        Between 0 and 1; NaN for no rows.
    """
    hits = (predictions[:, :top] == labels.view(-1, 1)).any(dim=1)
    return float(hits.double().mean())


def _largest(num_neighbors: Sequence[int], num_rows: int) -> int:
    if not num_neighbors or min(num_neighbors) < 1 or max(num_neighbors) > num_rows:
        raise ValueError(
            f"num_neighbors is {list(num_neighbors)}; each must be between 1 and the "
            f"number of training rows, {num_rows}"
        )
    return max(num_neighbors)


def _check(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    temperature: float,
    chunk_size: int,
) -> None:
    if train_labels.shape != train_features.shape[:1]:
        raise ValueError(
            f"train_labels has shape {tuple(train_labels.shape)}; wanted one label for "
            f"each of the {train_features.shape[0]} training rows"
        )
    if train_features.ndim != 2 or test_features.shape[1:] != train_features.shape[1:]:
        raise ValueError(
            f"train_features {tuple(train_features.shape)} and test_features "
            f"{tuple(test_features.shape)} must be (N, D) and (M, D)"
        )
    if not temperature > 0.0 or chunk_size < 1:
        raise ValueError(
            f"temperature is {temperature} and chunk_size {chunk_size}; temperature "
            "must be above 0 (0.07 to 0.1 is usual) and chunk_size at least 1"
        )
