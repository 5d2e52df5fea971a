"""What the gloo processes of the tests run; importable by spawned children."""

import torch

from vissl_swav.backends.torch_collective import TorchCollective, collective
from vissl_swav.core.feature_queue import FeatureQueue
from vissl_swav.core.kmeans import spherical_kmeans, spherical_kmeans_of_heads
from vissl_swav.core.scored_rows import ScoredRows
from vissl_swav.core.simclr_multicrop import simclr_multicrop_loss
from vissl_swav.core.sinkhorn import sinkhorn
from vissl_swav.core.swapped_prediction import swapped_prediction_loss


class Counting(TorchCollective):
    """Counts the collectives of a step."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def all_gather(self, tensor):
        self.calls += 1
        return super().all_gather(tensor)

    def all_reduce_sum(self, tensor):
        self.calls += 1
        return super().all_reduce_sum(tensor)


def codes_of_shard(rank, world_size, shards, settings):
    assert collective().world_size == world_size
    return sinkhorn(shards[rank], collective=collective(), **settings)


def loss_of_shard(rank, world_size, shards, settings):
    """Loss, gradient and number of collectives; shards are lists of heads."""
    counting = Counting()
    heads = [head.clone().requires_grad_() for head in shards[rank]]
    loss = swapped_prediction_loss(heads, collective=counting, **settings)
    loss.backward()
    return loss.detach(), [head.grad for head in heads], counting.calls


def queue_losses_of_shard(rank, world_size, features, prototypes, settings, length):
    """Losses of several steps with a queue; `features[step][rank]` is (V * B, D)."""
    num_crops = settings["num_crops"]
    queue = FeatureQueue(num_assign_crops=2, length=length, dim=prototypes.shape[1])
    losses = []
    for step in features:
        Z = step[rank]
        loss = swapped_prediction_loss(
            Z @ prototypes.t(),
            queue_scores=queue.score(prototypes) if queue.is_full else None,
            collective=collective(),
            **settings,
        )
        queue.push(Z.reshape(num_crops, -1, Z.shape[1])[:2])
        losses.append(loss)
    return torch.stack(losses)


def chunked_step(collective, shards, settings):
    """Loss and gradient of a rank whose queue is scored in chunks."""
    scores, codes, queues, C = shards[collective.rank]
    scores = scores.clone().requires_grad_()
    rows = [ScoredRows(Z, C, bytes_at_once=3 * 8 * len(C)) for Z in queues]
    loss = swapped_prediction_loss(
        scores,
        code_scores=codes,
        queue_scores=[rows],
        collective=collective,
        **settings,
    )
    loss.backward()
    return loss.detach(), scores.grad


def chunked_step_of_rank(rank, world_size, shards, settings):
    return chunked_step(collective(), shards, settings)


def uneven_gather(rank, world_size):
    """Both methods of the collective, and that neither changes its input."""
    backend = collective()
    tensor = torch.full((2,), float(rank + 1))
    gathered, total = backend.all_gather(tensor), backend.all_reduce_sum(tensor)
    assert torch.equal(tensor, torch.full((2,), float(rank + 1)))
    return gathered, total


def kmeans_cases(rank, world_size, cases):
    """`{name: clustering of this shard, or the error's text}`, and collectives used.

    A case names `features`, one a rank, and settings; `heads` is for several at once.
    `row_ids` and `initial_centroids` are lists by rank too, None where not given.
    """
    results = {}
    for name, case in cases.items():
        settings = dict(case)
        for by_rank in ("row_ids", "initial_centroids"):
            if by_rank in settings:
                settings[by_rank] = settings[by_rank][rank]
        features, counting = settings.pop("features")[rank], Counting()
        several = settings.pop("heads", False)
        algorithm = spherical_kmeans_of_heads if several else spherical_kmeans
        # Every process its own seed: rank 0's must count.
        generator = torch.Generator().manual_seed(7 + 100 * rank)
        try:
            result = algorithm(
                features, generator=generator, collective=counting, **settings
            )
        except ValueError as error:
            result = str(error)
        results[name] = (result, counting.calls)
    return results


def simclr_of_shard(rank, world_size, shards, settings):
    """Loss, gradient and collectives used, of one or several lists of shards."""
    results = []
    for of_ranks in shards:
        counting, Z = Counting(), of_ranks[rank].clone().requires_grad_()
        loss = simclr_multicrop_loss(Z, collective=counting, **settings)
        loss.backward()
        results.append((loss.detach(), Z.grad, counting.calls))
    return results
