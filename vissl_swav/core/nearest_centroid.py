"""The nearest centroid of each row: the E step of k-means, as an argument.

`N` rows, `D` dimension, `K` centroids. Nearest is by inner product, the cosine where
rows and centroids have unit length; among equals any may win.
"""

from typing import Protocol

import torch
from torch import Tensor

from vissl_swav.core.coarse_nearest import (
    LEAST_CENTROIDS,
    CoarseCentroids,
    multiplies_bfloat16,
)


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
        coarse: first score in bfloat16, then exactly what comes close (see
            `core.coarse_nearest`: the same labels); None: where that is quicker.
    """

    def __init__(self, max_bytes: int = 128 * 2**20, *, coarse: bool | None = None):
        if max_bytes < 1:
            raise ValueError(f"max_bytes is {max_bytes}; wanted >= 1.")
        self.max_bytes = max_bytes
        self.coarse = coarse

    @torch.no_grad()
    def __call__(self, features: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """See `Nearest`. Features of another dtype are converted chunk by chunk."""
        num_rows = features.shape[0]
        scorer = _Scorer(centroids, coarse=self._is_coarse(centroids))
        bytes_per_row = scorer.bytes_per_row
        if features.dtype != centroids.dtype:
            bytes_per_row += features.shape[1] * centroids.element_size()
        size = rows_per_chunk(1, bytes_per_row, self.max_bytes)
        indices = torch.empty(num_rows, dtype=torch.long, device=features.device)
        similarities = centroids.new_empty(num_rows)
        for start in range(0, num_rows, size):
            rows = features[start : start + size].to(centroids.dtype)
            part = slice(start, start + rows.shape[0])
            with torch.autocast(features.device.type, enabled=False):
                scorer.score(rows, (similarities[part], indices[part]))
            del rows  # Else two chunks of converted rows stand side by side.
        return indices, similarities

    def _is_coarse(self, centroids: Tensor) -> bool:
        is_float = centroids.dtype == torch.float32 and centroids.device.type == "cpu"
        if self.coarse is not None:
            return self.coarse and is_float
        enough = centroids.shape[0] >= LEAST_CENTROIDS
        return is_float and enough and multiplies_bfloat16(centroids.device)


# Chunks that the coarse pass may leave to the exact one before it is given up.
_TRIES = 2


class _Scorer:
    """Scores chunks of rows, none larger than the first, in buffers that it keeps."""

    def __init__(self, centroids: Tensor, *, coarse: bool):
        self._centroids = centroids
        self._coarse = CoarseCentroids(centroids) if coarse else None
        self._in_vain = 0
        self._buffers: dict[torch.dtype, Tensor] = {}

    @property
    def bytes_per_row(self) -> int:
        """Of all buffers; both passes have one."""
        exact = self._centroids.shape[0] * self._centroids.element_size()
        return exact + (self._coarse.bytes_per_row if self._coarse else 0)

    def score(self, rows: Tensor, best: tuple[Tensor, Tensor]) -> None:
        """Writes similarities and indices of the nearest centroids into `best`."""
        if self._coarse is not None:
            room = self._room(rows, self._coarse.columns, torch.bfloat16)
            found = self._coarse.nearest(rows, room)
            if found is not None:
                best[0].copy_(found[1])
                best[1].copy_(found[0])
                return
            self._in_vain += 1
            if self._in_vain == _TRIES:  # Features like these do not pay.
                self._coarse = None
        room = self._room(rows, self._centroids.shape[0], self._centroids.dtype)
        torch.max(torch.mm(rows, self._centroids.t(), out=room), dim=1, out=best)

    def _room(self, rows: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
        if dtype not in self._buffers:
            self._buffers[dtype] = torch.empty(
                rows.shape[0], columns, dtype=dtype, device=rows.device
            )
        return self._buffers[dtype][: rows.shape[0]]


def rows_per_chunk(num_columns: int, bytes_per_value: int, max_bytes: int) -> int:
    """Rows of a (rows, num_columns) matrix that fit into `max_bytes`, at least 1."""
    return max(1, max_bytes // (num_columns * bytes_per_value))
