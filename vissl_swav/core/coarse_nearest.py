"""The nearest centroid in two passes: all scores in bfloat16, the close ones exactly.

A CPU that multiplies bfloat16 natively does so several times faster than float32. The
coarse scores T differ from the scores S = Z C^T by no more than a bound e that the
rounding errors give (Cauchy-Schwarz), row by row:

    |S - T| <= |z - z'| |c| + |z'| |c - c'| + what T's own rounding loses

So the nearest centroid is among those with T >= max T - 2 e, on real features about two
a row. They alone are scored in float32: the same labels as one pass, up to ties.

Centroids lie in G groups of W, so that the maximum of a column of groups is a pass over
contiguous numbers, and only columns whose maximum comes close are looked into.
"""

import torch
from torch import Tensor

_GROUPS = 32
# Below this many centroids there is little to gain.
LEAST_CENTROIDS = 256
# More close centroids than this many a row: one pass in float32 is cheaper.
_MOST_CLOSE = 16
# Shorter rows and centroids than this: their squares are near float32's smallest.
_TINY = 1e-15
# Relative rounding of bfloat16: half a unit in the last of 8 bits, and some slack.
_ROUNDING = 2.0**-8


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the processor has instructions for bfloat16 products. CPUs only."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if device.type != "cpu":
        return False
    return any(getattr(torch.cpu, name, lambda: False)() for name in checks)


class CoarseCentroids:
    """Centroids C (K, D), prepared for `nearest`.

    Args:
        centroids: C, float32.
    """

    def __init__(self, centroids: Tensor):
        self._exact = centroids
        self._width = -(-centroids.shape[0] // _GROUPS)
        rounded = centroids.bfloat16()
        # What is missing to G x W is filled with copies of the last one.
        missing = self._width * _GROUPS - centroids.shape[0]
        self._rounded = torch.cat([rounded, rounded[-1:].expand(missing, -1)]).t()
        error = centroids - rounded.float()
        self._largest_error = error.square().sum(dim=1).sqrt().max()
        self._smallest_length = centroids.square().sum(dim=1).sqrt().min()
        self._largest_length = centroids.square().sum(dim=1).sqrt().max()
        self.columns = self._rounded.shape[1]

    @property
    def bytes_per_row(self) -> int:
        """Of the coarse scores and of the close centroids' rows, at most."""
        of_rows = (
            4 * 4 * self._exact.shape[1]
        )  # Two gathered, their product, Z rounded.
        return 3 * self.columns + _MOST_CLOSE * (of_rows + 4 * _GROUPS + 64)

    def nearest(self, rows: Tensor, scores: Tensor) -> tuple[Tensor, Tensor] | None:
        """Indices (B,) and similarities (B,) of rows (B, D), float32.

        Args:
            rows: Z.
            scores: room for (B, `columns`) bfloat16 scores.

        Returns:
            None where too many centroids come close, a row's best coarse score is not
            surely positive, or a row or centroid is so short that squares vanish.
        """
        num_rows = rows.shape[0]
        lengths = rows.square().sum(dim=1).sqrt()
        if not bool(torch.minimum(lengths, self._smallest_length).ge(_TINY).all()):
            return None
        rounded = rows.bfloat16()
        torch.mm(rounded, self._rounded, out=scores)
        grouped = scores.view(num_rows, _GROUPS, self._width)
        # Positive floats are ordered as their bits are, read as whole numbers, and any
        # of them stands above all negative ones; the maximum of integers is quicker.
        largest = grouped.view(torch.int16).amax(dim=1).view(torch.bfloat16)
        threshold = self._threshold(rows, rounded, largest.amax(dim=1).float())
        if not bool((threshold > 0).all()):
            return None
        row, column = (largest >= threshold[:, None]).nonzero(as_tuple=True)
        if row.numel() > _MOST_CLOSE * num_rows:
            return None
        close = grouped[row, :, column] >= threshold[row, None]
        pair, group = close.nonzero(as_tuple=True)
        if pair.numel() > _MOST_CLOSE * num_rows:
            return None
        row = row[pair]
        centroid = group * self._width + column[pair]
        centroid.clamp_max_(self._exact.shape[0] - 1)
        similarity = (rows[row] * self._exact[centroid]).sum(dim=1)
        best = torch.full((num_rows,), -torch.inf, dtype=rows.dtype)
        best.scatter_reduce_(0, row, similarity, "amax")
        won = similarity >= best[row]
        index = torch.empty(num_rows, dtype=torch.long)
        index.scatter_(0, row[won], centroid[won])
        return index, best

    def _threshold(self, rows: Tensor, rounded: Tensor, largest: Tensor) -> Tensor:
        """What a coarse score must reach to come from the nearest centroid, (B,)."""
        error = (rows - rounded.float()).square().sum(dim=1).sqrt()
        length = rows.square().sum(dim=1).sqrt()
        # Products of rounded numbers are summed in float32; the sum is rounded once.
        bound = error * self._largest_length + (length + error) * self._largest_error
        terms = rows.shape[1] * 2.0**-24  # Rounding of the sum over dimensions.
        bound = bound + terms * (length + error) * self._largest_length
        bound = bound + _ROUNDING * (largest.abs() + bound)
        threshold = largest - 2 * bound
        # Rounded down: the comparison is in bfloat16.
        return (threshold - _ROUNDING * threshold.abs()).bfloat16()
