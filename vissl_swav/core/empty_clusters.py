"""What to do with clusters that got no row.

Every function takes the centroids after an update and the counts of all processes, so
every process decides alike. `K` clusters, `D` dimension.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# Length of the noise that separates the parts of a split cluster, in unit lengths.
NOISE = 0.01

EmptyRule = Callable[[Tensor, Tensor, int], Tensor]


def split_largest(centroids: Tensor, counts: Tensor, seed: int) -> Tensor:
    """Empty clusters take parts of the largest: centroids near theirs, by fresh noise.

    A cluster is split into as many parts as makes the largest part smallest. Rows that
    lie much nearer to each other than the noise is long (`NOISE`) are not separated.

    Args:
        centroids: C (K, D), unit rows.
        counts: (K,) rows of each cluster over all processes.
        seed: of the noise; the same on every process, another for every update.

    Returns:
        (K, D), unit rows; equal to `centroids` but for the empty clusters.
    """
    empty = (counts == 0).nonzero().flatten()
    if empty.numel() == 0:
        return centroids
    donors = _donors(counts, empty.numel())
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(empty.numel(), centroids.shape[1], generator=generator)
    noise = torch.nn.functional.normalize(noise, dim=1) * NOISE
    centroids = centroids.clone()
    parts = centroids[donors] + noise.to(centroids)
    centroids[empty] = torch.nn.functional.normalize(parts, dim=1)
    return centroids


def keep(centroids: Tensor, counts: Tensor, seed: int) -> Tensor:
    """Empty clusters keep their centroid."""
    return centroids


def refuse(centroids: Tensor, counts: Tensor, seed: int) -> Tensor:
    """Empty clusters are an error.

    Raises:
        ValueError: on every process, if a cluster is empty.
    """
    num_empty = int((counts == 0).sum())
    if num_empty:
        raise ValueError(
            f"{num_empty} of {counts.numel()} clusters are empty; ask for fewer "
            'clusters, or for empty_clusters="split".'
        )
    return centroids


EMPTY_RULES: dict[str, EmptyRule] = {
    "split": split_largest,
    "keep": keep,
    "error": refuse,
}


def _donors(counts: Tensor, num_parts: int) -> Tensor:
    """The cluster that gives each of `num_parts` new parts: (num_parts,), in [0, K).

    With parts of at most `size` rows a cluster of n rows needs ceil(n / size) - 1 new
    ones: the smallest size that `num_parts` suffice for is found by bisection.
    """
    low, high = 0, int(counts.max())  # Size `high` needs no part, `low` too many.
    while high - low > 1:
        size = (low + high) // 2
        too_many = int((_ceil_div(counts, size) - 1).clamp_min(0).sum()) > num_parts
        low, high = (size, high) if too_many else (low, size)
    given = (_ceil_div(counts, high) - 1).clamp_min(0)
    # What is left goes to the clusters whose parts are then the largest.
    left = num_parts - int(given.sum())
    order = (counts.double() / (given + 1)).sort(descending=True, stable=True).indices
    order = order[counts[order] > 0]
    repeats = -(-left // order.numel())
    rest = order.repeat(repeats)[:left]
    of_bisection = torch.arange(counts.numel(), device=counts.device)
    return torch.cat([of_bisection.repeat_interleave(given), rest])


def _ceil_div(counts: Tensor, size: int) -> Tensor:
    return (counts + size - 1) // size
