"""What the gloo processes of the host tests run."""

import torch

import vissl_swav.compat


def loss_config(queue):
    return {
        "num_crops": 2,
        "num_prototypes": [5],
        "embedding_dim": 4,
        "queue_length": queue,
        "queue_length_per_rank": queue,
    }


def output(seed):
    """[embeddings, scores] of 4 samples, 2 crops."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.nn.functional.normalize
    Z = unit(torch.randn(8, 4, generator=generator), dim=1)
    C = unit(torch.randn(5, 4, generator=generator), dim=1)
    return [Z, Z @ C.t()]


def push(loss, seed):
    return loss(output(seed), None)


def save_and_load(rank, world_size):
    """The host saves rank 0's loss state and hands it to every rank."""
    vissl_swav.compat.apply()
    from vissl_swav.host.swav_loss import SwAVSwappedPrediction

    loss = SwAVSwappedPrediction.from_config(loss_config(queue=8))
    push(loss, seed=rank)
    loss.gather_queues()
    box = [loss.state_dict() if rank == 0 else None]
    torch.distributed.broadcast_object_list(box)
    fresh = SwAVSwappedPrediction.from_config(loss_config(queue=8))
    fresh.load_state_dict(box[0])
    own, saved = loss.swav.queue.features, fresh.swav.queue.features
    others = box[0]["_extra_state"]["features"][1 - rank]
    return torch.equal(own, saved), not torch.equal(own, others)
