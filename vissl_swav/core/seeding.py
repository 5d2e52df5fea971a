"""First centroids of k-means, drawn from the rows of all processes.

Every row has an id; its random number is a hash of (seed, draw, id). So a draw is the
same for any sharding of the same rows. Only K keys and K rows of a process cross.

`N` rows, `D` dimension, `K` centroids.

`random_rows`: K rows, uniformly without replacement (the paper's code).
`plus_plus`: rows far from those chosen before are likelier. Each row is drawn with
probability proportional to 1 - its cosine to the nearest chosen row (half its squared
distance: k-means++, Arthur and Vassilvitskii 2007), in rounds of 1, 1, 2, 4, ... rows,
each round without replacement, so that there are log2 K passes over the rows instead of
K (as k-means||, Bahmani et al. 2012, without its oversampling).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vissl_swav.core.collective import LOCAL, Collective
from vissl_swav.core.hashing import hashed_uniform
from vissl_swav.core.nearest_centroid import Nearest, TorchNearest
from vissl_swav.core.precision import exact_dtype


def random_rows(
    features: Tensor,
    num_centroids: int,
    *,
    seed: int,
    row_ids: Tensor,
    nearest: Nearest | None = None,
    collective: Collective = LOCAL,
) -> Tensor:
    """K different rows: (N_local, D) -> (K, D), the same on every process.

    Args:
        features: this process's rows.
        num_centroids: K, at most the rows of all processes.
        seed: the same on every process.
        row_ids: (N_local,) int64, different for different rows of all processes.
        nearest: not used.
        collective: the processes.
    """
    keys = hashed_uniform(row_ids, seed=seed, draw=0)
    return _rows_with_smallest(keys, features, num_centroids, collective)[0]


def plus_plus(
    features: Tensor,
    num_centroids: int,
    *,
    seed: int,
    row_ids: Tensor,
    nearest: Nearest | None = None,
    collective: Collective = LOCAL,
) -> Tensor:
    """k-means++ in rounds: (N_local, D) -> (K, D), the same on every process.

    Args:
        features: this process's rows, of unit length.
        num_centroids: K, at most the rows of all processes.
        seed: the same on every process.
        row_ids: (N_local,) int64, different for different rows of all processes.
        nearest: finds the nearest chosen row.
        collective: the processes.
    """
    nearest = nearest or TorchNearest()
    dtype = exact_dtype(features.dtype)
    chosen = features.new_empty(0, features.shape[1], dtype=dtype)
    largest = row_ids.new_full(row_ids.shape, -1, dtype=torch.float64)
    taken = torch.zeros_like(row_ids, dtype=torch.bool)
    draw = 0
    while chosen.shape[0] < num_centroids:
        size = min(max(chosen.shape[0], 1), num_centroids - chosen.shape[0])
        # An exponential race: the first arrivals are a draw by weight.
        times = -hashed_uniform(row_ids, seed=seed, draw=draw).log()
        # Rows within rounding of a chosen one are not drawn while there are others.
        weights = (1 - largest).clamp_min(1e-6) * (1 - largest > 1e-6) + 1e-300
        keys = (times / weights).masked_fill(taken, float("inf"))
        new, places = _rows_with_smallest(keys, features, size, collective)
        new = new.to(dtype)
        taken[places] = True
        largest = torch.maximum(largest, nearest(features, new)[1].double())
        chosen = torch.cat([chosen, new])
        draw += 1
    return chosen


Seeding = Callable[..., Tensor]
SEEDINGS: dict[str, Seeding] = {"random": random_rows, "k-means++": plus_plus}


def _rows_with_smallest(
    keys: Tensor, features: Tensor, count: int, collective: Collective
) -> tuple[Tensor, Tensor]:
    """The rows of all processes with the `count` smallest keys.

    Returns:
        (count, D) the rows, by key; and which of this process's rows are among them.
    """
    num_mine = min(count, keys.shape[0])
    padded = keys.new_full((count,), float("inf"))
    smallest, places = keys.topk(num_mine, largest=False)
    padded[:num_mine] = smallest
    of_all = collective.all_gather(padded).flatten()
    winners = of_all.sort(stable=True).indices[:count]
    mine = winners // count == collective.rank
    rows = features.new_zeros(count, features.shape[1])
    my_places = places[winners[mine] % count]
    rows[mine] = features[my_places]
    return collective.all_reduce_sum(rows), my_places
