"""A small SwAV under DDP, FSDP and torch.compile; importable by spawned children."""

import warnings

import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import vissl_swav
from vissl_swav import (
    FeatureQueue,
    MemoryBank,
    Prototypes,
    SwAV,
    swapped_prediction_loss,
)

V, B, D, K, LENGTH, STEPS = 3, 8, 8, (10, 7), 16, 4


class Model(nn.Module):
    """Encoder and prototypes in one module, as most code has them."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, D))
        self.prototypes = Prototypes(D, K)

    def forward(self, crops):
        Z = functional.normalize(self.encoder(crops).float(), dim=1)
        return Z, self.prototypes(Z)


class Apart(nn.Module):
    """Encoder and prototypes, each wrapped on its own."""

    def __init__(self, encoder, prototypes):
        super().__init__()
        self.encoder, self.prototypes = encoder, prototypes

    forward = Model.forward


def make_model():
    torch.manual_seed(0)
    return Model()


def make_swav(world_size=1):
    return SwAV(
        num_crops=V,
        num_prototypes=K,
        embedding_dim=D,
        queue_length=LENGTH // world_size,
    )


def crops_of(rank, world_size):
    """(V * B / world_size, 12) of each step: this process's samples, crop-major."""
    of_all = torch.randn(STEPS, V, B, 12, generator=torch.Generator().manual_seed(1))
    return of_all.chunk(world_size, dim=2)[rank].flatten(1, 2)


def train(model, prototypes, swav, batches):
    """Losses, and the dtypes that the prototypes and their gradients had."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    losses, dtypes = [], set()
    for crops in batches:
        Z, S = model(crops)
        queue = swav.score_queue(prototypes.weights())
        loss = swav(S, queue_scores=queue, collective=vissl_swav.collective())
        swav.finish_step(Z)
        optimizer.zero_grad()
        loss.backward()
        dtypes |= {S[0].dtype}
        dtypes |= {weight.dtype for weight in prototypes.parameters()}
        dtypes |= {weight.grad.dtype for weight in prototypes.parameters()}
        optimizer.step()
        prototypes.normalize_()
        losses.append(loss.detach())
    return torch.stack(losses), dtypes


def result(model, prototypes, swav, batches):
    losses, dtypes = train(model, prototypes, swav, batches)
    lengths = torch.cat([C.norm(dim=1) for C in prototypes.weights()])
    return {
        "losses": losses,
        "dtypes": dtypes,
        "weights": whole_weights(model),
        "lengths": lengths,
        "queue": swav.queue.features.clone(),
    }


def whole_weights(model):
    """All parameters, gathered where they are sharded."""
    weights = [p.detach() for p in model.parameters()]
    if hasattr(weights[0], "full_tensor"):
        return [p.full_tensor() for p in weights]
    if type(getattr(model, "encoder", None)).__name__ == "FullyShardedDataParallel":
        with model.encoder.summon_full_params(model.encoder):
            return [p.detach().clone() for p in model.parameters()]
    return [p.clone() for p in weights]


def with_ddp(rank, world_size):
    model, swav = make_model(), make_swav(world_size)
    return result(
        DistributedDataParallel(model),
        model.prototypes,
        swav,
        crops_of(rank, world_size),
    )


def with_fsdp1(rank, world_size, half):
    """FullyShardedDataParallel for the encoder, DDP for the prototypes."""
    from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision

    model = make_model()
    precision = MixedPrecision(param_dtype=torch.bfloat16) if half else None
    encoder = FullyShardedDataParallel(
        model.encoder,
        device_id=torch.device("cpu"),
        use_orig_params=True,
        mixed_precision=precision,
    )
    apart = Apart(encoder, DistributedDataParallel(model.prototypes))
    swav, batches = make_swav(world_size), crops_of(rank, world_size)
    return result(apart, model.prototypes, swav, batches)


def with_fsdp2(rank, world_size, half):
    """`fully_shard` for all; without a policy of its own for the prototypes."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh("cpu", (world_size,))
    model = make_model()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16 if half else None)
    fully_shard(model.prototypes, mesh=mesh)
    fully_shard(model.encoder, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)
    swav, batches = make_swav(world_size), crops_of(rank, world_size)
    return result(model, model.prototypes, swav, batches)


class InsideDDP(nn.Module):
    """What the docstrings warn of: a queue and a bank in a wrapped module."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.queue = FeatureQueue(num_assign_crops=1, length=4, dim=2)
        self.bank = MemoryBank(num_images=4, num_banks=1, dim=2)

    def forward(self, rows):
        return self.layer(rows)


def buffers_after_forward(rank, world_size, broadcast):
    """What a rank finds in queue and bank after the forward pass that follows."""
    model = InsideDDP()
    wrapped = DistributedDataParallel(model, broadcast_buffers=broadcast)
    rows = torch.full((1, 4, 2), float(rank + 1))
    model.queue.push(rows)
    model.bank.write(rows, torch.arange(4))
    wrapped(rows[0]).sum().backward()
    return model.queue.features.mean().item(), model.bank.rows(0).mean().item()


def compiled_loss(rank, world_size):
    """Loss and gradient of uneven shards, eager and compiled with no break."""
    backend = vissl_swav.collective()
    S = torch.rand(V * (5 + rank), 9, generator=torch.Generator().manual_seed(rank))

    def loss_of(S):
        return swapped_prediction_loss(S, num_crops=V, collective=backend)

    found = []
    compiled = torch.compile(loss_of, backend="eager", fullgraph=True)
    for call in (loss_of, compiled):
        scores = (1.6 * S - 0.8).requires_grad_()
        loss = call(scores)
        loss.backward()
        found.append((loss.detach(), scores.grad))
    return found


def compiled_contrast(rank, world_size):
    """The same of SimCLR with crops, which breaks its graph at the numbers of rows."""
    backend = vissl_swav.collective()
    Z = torch.rand(V * (5 + rank), 9, generator=torch.Generator().manual_seed(rank))

    def loss_of(Z):
        return vissl_swav.simclr_multicrop_loss(Z, num_crops=V, collective=backend)

    found = []
    for call in (loss_of, torch.compile(loss_of, backend="eager")):
        rows = nn.functional.normalize(Z - 0.5, dim=1).requires_grad_()
        loss = call(rows)
        loss.backward()
        found.append((loss.detach(), rows.grad))
    return found


def everything(rank, world_size, has_fsdp2):
    """One start of the processes for all of it."""
    warnings.simplefilter("ignore")  # torch's own, of its wrappers.
    assert vissl_swav.collective().world_size == world_size
    found = {
        "ddp": with_ddp(rank, world_size),
        "fsdp1": with_fsdp1(rank, world_size, half=False),
        "fsdp1 bfloat16": with_fsdp1(rank, world_size, half=True),
        "buffers broadcast": buffers_after_forward(rank, world_size, broadcast=True),
        "buffers kept": buffers_after_forward(rank, world_size, broadcast=False),
        "compiled": compiled_loss(rank, world_size),
        "compiled contrast": compiled_contrast(rank, world_size),
    }
    if has_fsdp2:
        found["fsdp2"] = with_fsdp2(rank, world_size, half=False)
        found["fsdp2 bfloat16"] = with_fsdp2(rank, world_size, half=True)
    return found
