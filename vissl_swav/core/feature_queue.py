"""The queue of earlier batches' features (SwAV, appendix A.6).

With a small batch, B samples cannot be spread evenly over K prototypes. Features of
earlier batches then join the Sinkhorn problem (not the loss). *Features* are stored and
scored with today's prototypes. A queue is used only when it is full of real features.

`A` assignment crops, `L` length on this process, `D` dimension, `B` samples of a batch.
"""

from typing import Any

import torch
from torch import Tensor, nn

from vissl_swav.core.outside_graphs import outside_graphs
from vissl_swav.core.precision import check_stored, exact
from vissl_swav.core.scored_rows import ScoredRows
from vissl_swav.core.setting_checks import check_whole


class FeatureQueue(nn.Module):
    """A ring buffer of features per assignment crop.

    All state is in buffers: `features (A, L, D)`, `next_row` and `num_filled` (rows
    stored so far, at most L). Do not place it inside a module that DDP wraps: DDP
    broadcasts buffers from rank 0, and every process must keep its own rows.

    Args:
        num_assign_crops: A.
        length: L, rows kept on this process.
        dim: D.
        dtype: of the stored features, float32, float64 or a half type.
    """

    features: Tensor
    next_row: Tensor
    num_filled: Tensor

    def __init__(
        self,
        *,
        num_assign_crops: int,
        length: int,
        dim: int,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        for name, value in (
            ("num_assign_crops", num_assign_crops),
            ("length", length),
            ("dim", dim),
        ):
            check_whole(name, value, least=1)
        check_stored(dtype)
        features = torch.zeros(num_assign_crops, length, dim, dtype=dtype)
        self.register_buffer("features", features)
        self.register_buffer("next_row", torch.zeros((), dtype=torch.long))
        self.register_buffer("num_filled", torch.zeros((), dtype=torch.long))
        # Mirrors of the two counters, so that no step waits for the device. What a
        # compiled step reads is one bool: it would compile each value of a counter.
        self._next_row, self._num_filled, self._is_full = 0, 0, False

    @property
    def length(self) -> int:
        """L."""
        return self.features.shape[1]

    @property
    def is_full(self) -> bool:
        """Whether every row holds a real feature."""
        return self._is_full

    @outside_graphs
    @torch.no_grad()
    def push(self, features: Tensor) -> None:
        """Stores a batch over the oldest rows.

        Args:
            features: (A, B, D); of a batch larger than the queue the last L rows stay.

        Raises:
            ValueError: A or D differ from the queue's.
        """
        num_assign, length, dim = self.features.shape
        if features.ndim != 3 or features.shape[::2] != (num_assign, dim):
            raise ValueError(
                f"features have shape {tuple(features.shape)}; wanted "
                f"({num_assign}, B, {dim}): assignment crops, samples, dimension."
            )
        rows = features[:, -length:].to(self.features)
        positions = torch.arange(rows.shape[1], device=self.features.device)
        positions = (positions + self._next_row) % length
        self.features.index_copy_(1, positions, rows)
        self._set_counters(
            (self._next_row + rows.shape[1]) % length,
            min(length, self._num_filled + rows.shape[1]),
        )

    @torch.no_grad()
    def score(self, prototypes: Tensor) -> Tensor:
        """Scores of all rows with prototypes C (K, D), all at once: -> (A, L, K).

        Raises:
            ValueError: prototypes that are no matrix, or of another D.
        """
        self._check_prototypes(prototypes)
        with torch.autocast(self.features.device.type, enabled=False):
            Z = exact(self.features)
            return Z @ prototypes.detach().to(Z).t()

    def rows(self, prototypes: Tensor) -> list[ScoredRows]:
        """The same a few rows at a time, one entry per assignment crop."""
        self._check_prototypes(prototypes)
        return [ScoredRows(Z, prototypes) for Z in self.features]

    def _check_prototypes(self, prototypes: Tensor) -> None:
        dim = self.features.shape[2]
        if prototypes.ndim != 2 or prototypes.shape[1] != dim:
            raise ValueError(
                f"prototypes have shape {tuple(prototypes.shape)}; wanted (K, {dim}): "
                "one row each, of the length of the queue's features."
            )

    def _set_counters(self, next_row: int, num_filled: int) -> None:
        self._mirror(next_row, num_filled)
        self.next_row.fill_(next_row)
        self.num_filled.fill_(num_filled)

    def _mirror(self, next_row: int, num_filled: int) -> None:
        self._next_row, self._num_filled = next_row, num_filled
        self._is_full = num_filled == self.length

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)  # pyright: ignore
        self._mirror(int(self.next_row), int(self.num_filled))
