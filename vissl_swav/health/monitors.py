"""What is measured of a run while it trains.

`Z (B, D)` unit features of an assignment crop, `Q (B, K)` codes, `C (K, D)` prototypes,
`B` samples over all processes, `K` prototypes, `D` dimension.

Sums over samples come first (`sums_of_features`, `sums_of_codes`): they are added over
the processes, and the figures follow from the totals. So any number of processes gives
the figures of one that holds all samples.
"""

import math

import torch
from torch import Tensor

DISTINCT_BELOW = 0.95
"""Cosine from which two prototypes count as one (arXiv 2410.14060)."""

_TINY = 1e-12


def progress(loss: float, ceiling: float, floor: float) -> float:
    """(ceiling - loss) / (ceiling - floor): 0 where nothing is learned, 1 at the floor.

    Negative above the ceiling; 0 for a single prototype, whose loss is always 0.
    """
    room = ceiling - floor
    return (ceiling - loss) / room if room > _TINY else 0.0


def sums_of_features(Z: Tensor) -> Tensor:
    """Count, sum and sum of squares of the rows: (B, D) -> (1 + 2 D,) float64."""
    rows = Z.detach().double()
    count = rows.new_full((1,), rows.shape[0])
    return torch.cat([count, rows.sum(0), rows.square().sum(0)])


def feature_spread(sums: Tensor) -> Tensor:
    """Standard deviation of a feature over the samples, x sqrt(D); a scalar.

    The mean over the D directions. Unit features spread evenly over the sphere give 1,
    equal features 0, features on a line through the origin 1 / sqrt(D).

    Args:
        sums: of `sums_of_features`, added over the processes.
    """
    dim = (sums.shape[0] - 1) // 2
    mean, square = sums[1 : dim + 1] / sums[0], sums[dim + 1 :] / sums[0]
    deviation = (square - mean.square()).clamp_min(0).sqrt()
    return deviation.mean() * math.sqrt(dim)


def prototype_spread(C: Tensor) -> Tensor:
    """Standard deviation over the prototypes, x sqrt(D): 0 where all are one vector."""
    return feature_spread(sums_of_features(C))


def norm_error(Z: Tensor) -> Tensor:
    """Largest distance of a row's length from 1; infinite where one is not finite.

    The prototypes score unit features: scores of others overflow the codes (swav#67).
    """
    lengths = torch.linalg.vector_norm(Z.detach().float(), dim=1)
    return (lengths - 1).abs().nan_to_num(nan=math.inf, posinf=math.inf).amax()


def entropies(Q: Tensor) -> Tensor:
    """Entropy of every row, in nats: (B, K) -> (B,)."""
    return torch.special.entr(Q.detach().double()).sum(1)


def sums_of_codes(Q: Tensor) -> Tensor:
    """Count, sum of entropies, sum of the rows: (B, K) -> (2 + K,) float64."""
    rows = Q.detach().double()
    count = rows.new_full((1,), rows.shape[0])
    return torch.cat([count, entropies(rows).sum()[None], rows.sum(0)])


def code_entropies(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Mean entropy of a code, and the entropy of the mean code, in nats.

    Codes that tell nothing of their sample have both at ln K. Balanced codes have the
    second near ln K; with N samples in the Sinkhorn problem the first is at least
    ln(K / N).

    Args:
        sums: of `sums_of_codes`, added over the processes.
    """
    mean = sums[2:] / sums[2:].sum().clamp_min(_TINY)
    return sums[1] / sums[0], torch.special.entr(mean).sum()


def count_largest(S: Tensor) -> Tensor:
    """How many rows have their largest score at each prototype: (B, K) -> (K,) int64.

    Rows that are not finite fall to some prototype.
    """
    largest = S.detach().argmax(1)
    # Not bincount, which makes the host wait for a device.
    return largest.new_zeros(S.shape[1]).index_add_(
        0, largest, torch.ones_like(largest)
    )


def num_distinct(
    C: Tensor, *, cosine: float = DISTINCT_BELOW, rows_at_once: int = 1024
) -> int:
    """Prototypes that are no near-copy of an earlier one.

    Args:
        C: (K, D), rows of any length.
        cosine: from which two rows are copies.
        rows_at_once: rows compared at a time: memory is rows_at_once x K values.
    """
    unit = torch.nn.functional.normalize(C.detach().float(), dim=1)
    copies = 0
    for start in range(0, unit.shape[0], rows_at_once):
        rows = unit[start : start + rows_at_once]
        # Row i against the rows before it, itself excluded.
        earlier = torch.tril(rows @ unit[: start + len(rows)].t(), diagonal=start - 1)
        copies += int((earlier >= cosine).any(1).sum())
    return unit.shape[0] - copies


def queue_drift(features: Tensor, next_row: Tensor, Z: Tensor, *, rows: int) -> Tensor:
    """How much worse the oldest rows of a queue fit today's features than the newest.

    For each feature of today the largest cosine with `rows` of the newest rows, and
    with as many of the oldest; the mean difference. 0 where the encoder stands still;
    it grows as the rows of the queue become those of another encoder.

    Args:
        features: (L, D), the ring buffer of an assignment crop, full.
        next_row: where the next row goes, so that of the oldest.
        Z: (B, D), today's features: those that the queue holds as its B newest rows.
        rows: at most (L - B) / 2.
    """
    length, step = features.shape[0], torch.arange(rows, device=features.device)
    newest = features[(next_row - 1 - Z.shape[0] - step) % length]
    oldest = features[(next_row + step) % length]
    today = Z.detach().to(features)
    nearest = [(today @ some.t()).amax(1).mean() for some in (newest, oldest)]
    return nearest[0] - nearest[1]
