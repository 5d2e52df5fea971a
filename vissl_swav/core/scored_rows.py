"""Rows whose scores are formed a few at a time.

A queue of L = 65 536 features has 786 MB of scores with K = 3000 prototypes, for each
assignment crop, and Sinkhorn wants several of that size. The queue's own codes are
never asked for, only what its rows add to the prototypes' sums: `balanced_codes` forms
the scores anew in each iteration, `SCORES_AT_ONCE` bytes at a time.

`L` rows, `K` prototypes, `D` dimension.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vissl_swav.core.precision import exact_dtype

SCORES_AT_ONCE = 128 * 2**20
"""Bytes of scores that are formed at a time; fewer rows than this are scored whole."""


@dataclass(frozen=True)
class ScoredRows:
    """Rows Z (L, D) and the prototypes C (K, D) that score them.

    Attributes:
        features: Z; unit rows, of any floating type.
        prototypes: C; unit rows.
        bytes_at_once: bound of a chunk's scores; one row at least.
    """

    features: Tensor
    prototypes: Tensor
    bytes_at_once: int = SCORES_AT_ONCE

    @property
    def rows_at_once(self) -> int:
        """Rows of a chunk."""
        return max(1, self.bytes_at_once // (self._bytes_of_a_value * self._width))

    @property
    def fit_at_once(self) -> bool:
        """Whether all scores are one chunk."""
        return self.features.shape[0] <= self.rows_at_once

    def chunks(self) -> Iterator[Tensor]:
        """Scores (rows, K), chunk by chunk; float32, or float64 of such features."""
        C = self.prototypes.detach().to(self._dtype).t()
        for Z in torch.split(self.features.detach(), self.rows_at_once):
            with torch.autocast(Z.device.type, enabled=False):
                S = Z.to(self._dtype) @ C
            yield S

    @property
    def _dtype(self) -> torch.dtype:
        return exact_dtype(self.features.dtype)

    @property
    def _bytes_of_a_value(self) -> int:
        return self._dtype.itemsize

    @property
    def _width(self) -> int:
        return self.prototypes.shape[0]
