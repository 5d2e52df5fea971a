"""Labels under equal partition of all images: SeLa-v2's assignment (SwAV, eq. 12).

    max over Q of  Tr(Q^T S) + eps H(Q),  rows of Q sum to 1, columns to N / K

`S = Z C^T`, `Z (N, D)` the features of the bank, of which each process holds its own
rows, `C (K, D)` the trained prototypes. The solution is
    Q[i, k] = exp(S[i, k] / eps + v[k] - r[i]),
and one iteration sets r so that the rows sum to 1, then v so that the columns sum to
N / K. It is the Sinkhorn problem of `core.sinkhorn` without its matrix: a batch fits
into memory, the scores of a data set do not. They are computed anew in each iteration,
chunk by chunk: memory O(N + K + chunk). Only K numbers of a head cross processes.

Everything is kept as logarithms, so that no epsilon makes a sum vanish. As eps goes to
0 the codes become a hard equal partition (and the iterations many), as it goes to
infinity 1 / K.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vissl_swav.core.collective import LOCAL, Collective
from vissl_swav.core.nearest_centroid import rows_per_chunk
from vissl_swav.core.outside_graphs import outside_graphs
from vissl_swav.core.precision import exact_dtype
from vissl_swav.core.setting_checks import check_positive
from vissl_swav.core.sinkhorn import EPSILON

TOLERANCE = 1e-3
"""Ours: the paper is silent. Largest relative error of a prototype's share."""

MAX_ITERATIONS = 1000
"""Ours. What is left of the error is in the result."""

_MAX_BYTES = 128 * 2**20


@dataclass(frozen=True)
class BalancedLabels:
    """The labels of one head.

    Attributes:
        labels: (N_local, L) int64, the prototypes with the largest codes, in order.
        weights: (N_local, L) their codes, scaled to sum to 1 (all 1 if L = 1).
        log_scaling: v (K,), the same on every process; softmax(S / eps + v) is a code.
        error: largest relative error of a prototype's share of the images.
        num_iterations: how many columns' normalisations were made.
        objective: mean over all images of the label's - S[i, label].
    """

    labels: Tensor
    weights: Tensor
    log_scaling: Tensor
    error: float
    num_iterations: int
    objective: float


def balanced_labels(
    features: Tensor,
    prototypes: Tensor,
    *,
    epsilon: float = EPSILON,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
    num_labels: int = 1,
    max_bytes: int = _MAX_BYTES,
    collective: Collective = LOCAL,
) -> BalancedLabels:
    """Labels of all processes' rows under equal partition.

    Args:
        features: Z (N_local, D), float32, float64 or a half type (computed in float32).
        prototypes: C (K, D), the same on every process.
        epsilon: entropy weight, > 0; acts on the cosines S, as in SwAV.
        tolerance: stop when every prototype's share of the images is within this of
            1 / K, relatively.
        max_iterations: stop there in any case; the result has the error that is left.
        num_labels: L, 1 for hard labels; else the L largest codes are kept.
        max_bytes: bound of each temporary chunk of scores (there are three).
        collective: the processes that hold the rows.

    Returns:
        See `BalancedLabels`.

    Raises:
        ValueError: settings or shapes that do not fit; on every process alike, scores
            that are not finite, or no rows at all.
    """
    return balanced_labels_of_heads(
        [features],
        [prototypes],
        epsilon=epsilon,
        tolerance=tolerance,
        max_iterations=max_iterations,
        num_labels=num_labels,
        max_bytes=max_bytes,
        collective=collective,
    )[0]


@outside_graphs
@torch.no_grad()
def balanced_labels_of_heads(
    features: Sequence[Tensor],
    prototypes: Sequence[Tensor],
    *,
    epsilon: float = EPSILON,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
    num_labels: int = 1,
    max_bytes: int = _MAX_BYTES,
    collective: Collective = LOCAL,
) -> list[BalancedLabels]:
    """Several heads in step: one gather an iteration, until all are within `tolerance`.

    Arguments as `balanced_labels`, one tensor of each a head; the features of all heads
    have as many rows.
    """
    _check_shapes(features, prototypes)
    widths = [len(C) for C in prototypes]
    check_settings(epsilon, tolerance, max_iterations, num_labels, widths)
    heads = [
        _Head(Z, C, epsilon, max_bytes)
        for Z, C in zip(features, prototypes, strict=True)
    ]
    num_rows = heads[0].log_scaling.new_full((1,), features[0].shape[0])
    total = float(collective.all_reduce_sum(num_rows))
    iteration = 0
    while True:
        local = torch.cat([head.log_columns() for head in heads])
        columns = collective.all_gather(local).logsumexp(dim=0)
        errors = [
            head.take(column, total)
            for head, column in zip(heads, torch.split(columns, widths), strict=True)
        ]
        # All processes see the same sums: they stop, or raise, together.
        if not all(error < float("inf") for error in errors):
            raise ValueError(
                "the scores are not finite, or no process has a row; check the "
                "features of the bank and the prototypes for NaN and infinity."
            )
        if max(errors) <= tolerance or iteration == max_iterations:
            break
        for head in heads:
            head.update()
        iteration += 1
    return [head.result(num_labels, iteration, total, collective) for head in heads]


class _Head:
    """One Sinkhorn problem: v, and this process's rows to recompute the scores from."""

    def __init__(
        self, features: Tensor, prototypes: Tensor, epsilon: float, max_bytes: int
    ):
        self._dtype = exact_dtype(features.dtype)
        self._features = features
        # Scaled once: S / eps in one product.
        self._prototypes = prototypes.detach().to(self._dtype).t() / epsilon
        self._epsilon = epsilon
        self.num_prototypes = prototypes.shape[0]
        self.log_scaling = torch.zeros(
            self.num_prototypes, dtype=torch.float64, device=features.device
        )
        self._log_ratio, self._error = self.log_scaling, float("inf")
        itemsize = self._dtype.itemsize
        self._chunk = rows_per_chunk(self.num_prototypes, itemsize, max_bytes)

    def _scaled(self, start: int) -> Tensor:
        """S / eps + v for the chunk of rows from `start` on."""
        rows = self._features[start : start + self._chunk].to(self._dtype)
        with torch.autocast(rows.device.type, enabled=False):
            return (rows @ self._prototypes).add_(self.log_scaling.to(self._dtype))

    def log_columns(self) -> Tensor:
        """Log of each prototype's sum over this process's rows, each summing to 1."""
        columns = torch.full_like(self.log_scaling, -torch.inf)
        for start in range(0, self._features.shape[0], self._chunk):
            X = self._scaled(start)
            X.sub_(X.logsumexp(dim=1, keepdim=True))
            columns = torch.logaddexp(columns, X.logsumexp(dim=0).double())
        return columns

    def take(self, log_columns: Tensor, num_rows: float) -> float:
        """The sums over all processes -> the largest relative error of a share."""
        self._log_ratio = log_columns - torch.log(
            torch.tensor(num_rows / self.num_prototypes, dtype=torch.float64)
        )
        error = (self._log_ratio.exp() - 1).abs().max()
        self._error = float(error.nan_to_num(nan=torch.inf))
        return self._error

    def update(self) -> None:
        """Scaling such that the columns sum to N / K."""
        self.log_scaling = self.log_scaling - self._log_ratio

    def result(
        self, num_labels: int, iteration: int, num_rows: float, collective: Collective
    ) -> BalancedLabels:
        count = self._features.shape[0]
        labels = torch.empty(
            count, num_labels, dtype=torch.long, device=self._features.device
        )
        weights = labels.new_empty(labels.shape, dtype=self._dtype)
        matched = self.log_scaling.new_zeros(1)
        for start in range(0, count, self._chunk):
            part = slice(start, start + self._chunk)
            X = self._scaled(start)
            largest, labels[part] = X.topk(num_labels, dim=1)
            weights[part] = largest.softmax(dim=1)
            first = labels[part][:, 0]
            S = (largest[:, 0] - self.log_scaling[first].to(X.dtype)) * self._epsilon
            matched += S.sum()
        objective = -float(collective.all_reduce_sum(matched)) / num_rows
        return BalancedLabels(
            labels, weights, self.log_scaling, self._error, iteration, objective
        )


def check_settings(
    epsilon: float,
    tolerance: float,
    max_iterations: int,
    num_labels: int,
    num_prototypes: Sequence[int],
) -> None:
    """The settings that need no other process.

    Raises:
        ValueError: names the setting, its value and what is wanted.
    """
    check_positive("epsilon", epsilon, paper=EPSILON)
    if not tolerance >= 0 or max_iterations < 1:
        raise ValueError(
            f"tolerance is {tolerance} and max_iterations {max_iterations}; wanted "
            ">= 0 and >= 1."
        )
    if not 1 <= num_labels <= min(num_prototypes):
        raise ValueError(
            f"num_labels is {num_labels}; wanted between 1 and the number of "
            f"prototypes, {min(num_prototypes)}."
        )


def _check_shapes(features: Sequence[Tensor], prototypes: Sequence[Tensor]) -> None:
    if not features or len(features) != len(prototypes):
        raise ValueError(
            f"got {len(features)} feature tensors and {len(prototypes)} of prototypes; "
            "wanted one of each a head."
        )
    for Z, C in zip(features, prototypes, strict=True):
        if Z.ndim != 2 or C.ndim != 2 or Z.shape[1] != C.shape[1] or len(C) == 0:
            raise ValueError(
                f"features have shape {tuple(Z.shape)} and prototypes "
                f"{tuple(C.shape)}; wanted (N, D) and (K, D)."
            )
    rows = [Z.shape[0] for Z in features]
    if len(set(rows)) > 1:
        raise ValueError(f"features have {rows} rows; wanted the same for every head.")
