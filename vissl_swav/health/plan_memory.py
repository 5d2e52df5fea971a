"""Memory that a run needs and arithmetic can tell, in bytes of one process.

What the trunk keeps for its backward pass is not here: it depends on the trunk's code.
"""

from dataclasses import dataclass

from vissl_swav.core.scored_rows import SCORES_AT_ONCE

_FLOAT32, _INT64, _INT32 = 4, 8, 4
# Tensors of a parameter's size that an optimizer keeps.
OPTIMIZER_STATES = {"sgd": 1, "sgd_fsdp": 1, "lars": 1, "adam": 2, "adamw": 2}
# Bound of the scores that a nearest-centroid step holds at once (`TorchNearest`).
_NEAREST_SCORES = 128 * 2**20
# Tensors of a chunk's size in a half step of Sinkhorn (`core.sinkhorn`).
_CHUNKS_AT_ONCE = 3


@dataclass(frozen=True)
class Shapes:
    """Sizes on one process: rows of a step, of the queue, and the bank's."""

    num_prototypes: tuple[int, ...]
    embedding_dim: int
    batch_per_process: int
    num_crops: int
    num_assign_crops: int
    queue_rows: int = 0
    num_images: int = 0
    world_size: int = 1
    bytes_per_bank_value: int = _FLOAT32
    bytes_per_queue_value: int = _FLOAT32


def model_bytes(num_parameters: int, optimizer: str, momentum: float = 0.9) -> int:
    """Weights, gradients and the optimizer's state, in float32."""
    states = OPTIMIZER_STATES.get(optimizer, 1)
    if not momentum and optimizer in ("sgd", "sgd_fsdp"):
        states = 0
    return _FLOAT32 * num_parameters * (2 + states)


def encoder_bytes(num_parameters: int) -> int:
    """Weights of a momentum encoder: no gradient, no state of an optimizer."""
    return _FLOAT32 * num_parameters


def score_bytes(shapes: Shapes) -> int:
    """Scores of all crops and their gradients; those of the queue; float32.

    A long queue is scored a few rows at a time: a chunk, its exponentials, and what a
    sum over them takes.
    """
    rows = shapes.batch_per_process * shapes.num_crops
    total = sum(shapes.num_prototypes)
    widest = max(shapes.num_prototypes, default=0)
    of_queue = 2 * _FLOAT32 * total * shapes.queue_rows * shapes.num_assign_crops
    if _FLOAT32 * widest * shapes.queue_rows > SCORES_AT_ONCE:
        of_queue = _CHUNKS_AT_ONCE * SCORES_AT_ONCE
    return 2 * _FLOAT32 * total * rows + of_queue


def similarity_bytes(shapes: Shapes, num_images: int, max_similarities: int) -> int:
    """Cosines of own crops with all crops, twice; features of all, float32."""
    own, total = (
        shapes.batch_per_process * shapes.num_crops,
        num_images * shapes.num_crops,
    )
    held = min(own, max(1, max_similarities // total)) * total
    return _FLOAT32 * (2 * held + total * shapes.embedding_dim)


def queue_bytes(shapes: Shapes) -> int:
    """Features of the queue, as they are stored."""
    rows = shapes.queue_rows * shapes.num_assign_crops
    return shapes.bytes_per_queue_value * rows * shapes.embedding_dim


def bank_bytes(shapes: Shapes) -> int:
    """The memory bank: rows and labels.

    Images change ranks, so that a process has up to two rows an image of its share,
    until they are settled once an epoch.
    """
    if not shapes.num_images:
        return 0
    row = (
        shapes.num_assign_crops * shapes.embedding_dim * shapes.bytes_per_bank_value
        + 2 * _INT64
    )
    share = -(-shapes.num_images // shapes.world_size)
    rows = min(shapes.num_images, 2 * share)
    labels = _INT32 * shapes.num_images * (len(shapes.num_prototypes) + 1)
    return row * rows + labels


def kmeans_bytes(shapes: Shapes) -> int:
    """A k-means over the bank: centroids, their sums, labels, a chunk of scores."""
    if not shapes.num_images:
        return 0
    share = -(-shapes.num_images // shapes.world_size)
    total = sum(shapes.num_prototypes)
    centroids = 2 * _FLOAT32 * total * shapes.embedding_dim
    labels = (_INT64 + _FLOAT32) * share * len(shapes.num_prototypes)
    scores = min(_NEAREST_SCORES, _FLOAT32 * share * max(shapes.num_prototypes))
    return centroids + labels + scores
