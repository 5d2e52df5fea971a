"""The nearest centroid of each row: the E step of k-means, as an argument.

`N` rows, `D` dimension, `K` centroids. Nearest is by inner product, the cosine where
rows and centroids have unit length; among equals any may win.
"""

from typing import Protocol

import torch
from torch import Tensor


class Nearest(Protocol):
    """Finds the nearest centroid: this file's, or `backends.faiss_nearest`."""

    def __call__(self, features: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D), (K, D) -> indices (N,) int64, similarities (N,) of C's dtype."""
        ...


class TorchNearest:
    """By chunks of the score matrix, which never stands in memory as a whole.

    Args:
        max_bytes: bound of the temporary scores, and of the rows converted for them, in
            bytes; one row at least is scored at a time. 128 MiB keeps a CPU busy; a
            GPU gains by more.
    """

    def __init__(self, max_bytes: int = 128 * 2**20):
        if max_bytes < 1:
            raise ValueError(f"max_bytes is {max_bytes}; wanted >= 1.")
        self.max_bytes = max_bytes

    @torch.no_grad()
    def __call__(self, features: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """See `Nearest`. Features of another dtype are converted chunk by chunk."""
        num_rows, num_centroids = features.shape[0], centroids.shape[0]
        width = num_centroids
        if features.dtype != centroids.dtype:
            width += features.shape[1]
        size = rows_per_chunk(width, centroids.element_size(), self.max_bytes)
        indices = torch.empty(num_rows, dtype=torch.long, device=features.device)
        similarities = centroids.new_empty(num_rows)
        scores = centroids.new_empty(min(size, num_rows), num_centroids)
        for start in range(0, num_rows, size):
            rows = features[start : start + size].to(centroids.dtype)
            with torch.autocast(features.device.type, enabled=False):
                S = torch.mm(rows, centroids.t(), out=scores[: rows.shape[0]])
            end = start + rows.shape[0]
            best = (similarities[start:end], indices[start:end])
            torch.max(S, dim=1, out=best)
            del rows  # Else two chunks of converted rows stand side by side.
        return indices, similarities


def rows_per_chunk(num_columns: int, bytes_per_value: int, max_bytes: int) -> int:
    """Rows of a (rows, num_columns) matrix that fit into `max_bytes`, at least 1."""
    return max(1, max_bytes // (num_columns * bytes_per_value))
