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
    loss.gather_shards()
    state = handed_on(loss, rank)
    fresh = SwAVSwappedPrediction.from_config(loss_config(queue=8))
    fresh.load_state_dict(dict(state))
    own, saved = loss.swav.queue.features, fresh.swav.queue.features
    others = [s["features"] for s in state["_extra_state"]["other_ranks"]]
    assert len(others) == world_size - 1
    differs = all(not torch.equal(state["swav.queue.features"], o) for o in others)
    return torch.equal(own, saved), differs, state


def handed_on(loss, rank):
    """Rank 0's state dict on every rank, as after a checkpoint."""
    box = [loss.state_dict() if rank == 0 else None]
    torch.distributed.broadcast_object_list(box)
    return box[0]


def clustering_config(**settings):
    """An inferred `LOSS.deepcluster_v2` or `LOSS.sela_v2`: 21 images, 2 heads."""
    return {
        "num_crops": 2,
        "num_prototypes": [5, 3],
        "embedding_dim": 4,
        "num_images": 21,
        **settings,
    }


def unit_rows(count, dim=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, dim, generator=generator)
    return torch.nn.functional.normalize(rows, dim=1)


def clustering_step(loss, images, seed):
    """A training step of `images`, with random features."""
    Z = unit_rows(2 * len(images), seed=seed)
    loss.images, loss.valid = images, torch.ones_like(images, dtype=torch.bool)
    return loss([Z, Z @ unit_rows(5, seed=8).t(), Z @ unit_rows(3, seed=9).t()], None)


def save_and_load_bank(rank, world_size, name):
    """Banks of uneven sizes and their labels, through rank 0's state dict."""
    vissl_swav.compat.apply()
    from vissl_swav.backends.torch_collective import collective
    from vissl_swav.host import clustering_losses

    loss_class = getattr(clustering_losses, name)
    loss = loss_class.from_config(clustering_config())
    # In mid-epoch: the ranks hold different numbers of images, one of them twice.
    mine = torch.arange(21)[rank::world_size][: 8 - rank]
    clustering_step(loss, mine, seed=rank)
    clustering_step(loss, torch.tensor([20]), seed=10 + rank)
    prototypes = [unit_rows(5, seed=8), unit_rows(3, seed=9)]
    loss.method.start_epoch(prototypes, epoch=0, collective=collective())
    clustering_step(loss, torch.tensor([0, 1]), seed=20 + rank)
    loss.gather_shards()
    state = handed_on(loss, rank)
    fresh = loss_class.from_config(clustering_config())
    fresh.load_state_dict(dict(state))
    own = dict(_tensors(loss)), dict(_tensors(fresh))
    same = {key: torch.equal(own[0][key], own[1][key]) for key in own[0]}
    loss.eval(), fresh.eval()
    images = torch.tensor([20, 3, 7, 0])
    losses = clustering_step(loss, images, 30), clustering_step(fresh, images, 30)
    return all(same.values()), torch.equal(*losses), state


def _tensors(loss):
    """Every tensor of the state, of the bank the rows in use."""
    for name, value in loss.state_dict().items():
        if torch.is_tensor(value) and ".bank." not in name:
            yield name, value
    yield from loss.method.bank.in_use().items()
