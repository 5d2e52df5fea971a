"""State that differs from process to process, together and apart.

A checkpoint is written by one process, and a run may go on with another number of
them. `shards_of_all` collects every process's state; `bank_shard` and `queue_shard`
give a process its part of it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vissl_swav.core.collective import Collective

State = dict[str, Tensor]

# Bytes that stand on every process at a time, of all processes' state together.
_CHUNK = 64 * 2**20


def shards_of_all(state: State, collective: Collective, *, keep: bool) -> list[State]:
    """Every process's `state`, in rank order, on the CPU.

    The tensors may differ in their first-to-last sizes between processes, not in dtype
    and number of axes.

    Args:
        state: this process's tensors, by name; the same names everywhere.
        collective: the processes.
        keep: False throws the others' parts away as they come (a process that does not
            write the checkpoint) and returns nothing.
    """
    shards: list[State] = [{} for _ in range(collective.world_size)] if keep else []
    for name, tensor in state.items():
        own = torch.tensor(tensor.shape, dtype=torch.long, device=tensor.device)
        shapes: list[list[int]] = collective.all_gather(own).tolist()  # pyright: ignore
        # As bytes: every backend carries them, half types included.
        flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
        sizes = [tensor.element_size() * _product(shape) for shape in shapes]
        parts: list[list[Tensor]] = [[] for _ in shapes]
        step = max(1, _CHUNK // len(shapes))
        for start in range(0, max(sizes), step):
            length = min(step, max(sizes) - start)
            chunk = flat.new_zeros(length)
            mine = flat[start : start + length]
            chunk[: mine.numel()] = mine
            gathered = collective.all_gather(chunk)
            if keep:
                for rank, size in enumerate(sizes):
                    useful = max(0, min(length, size - start))
                    parts[rank].append(gathered[rank, :useful].cpu())
        for shard, shape, pieces in zip(shards, shapes, parts, strict=False):
            whole = torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.uint8)
            shard[name] = whole.view(tensor.dtype).reshape(shape)
    return shards


def bank_shard(shards: Sequence[State], rank: int, world_size: int) -> State:
    """A process's part of a memory bank that another number of processes wrote.

    Every image's latest row is kept; the images, in order, are cut evenly.

    Args:
        shards: `MemoryBank.state_dict()` of each process that wrote.
        rank: the process that reads.
        world_size: processes that read.
    """
    used = [int(shard["num_rows"]) for shard in shards]
    index = torch.cat([s["index"][:n] for s, n in zip(shards, used, strict=True)])
    stamp = torch.cat([s["stamp"][:n] for s, n in zip(shards, used, strict=True)])
    owner = torch.repeat_interleave(torch.arange(len(shards)), torch.tensor(used))
    # By image, then by age: the last of each image is its latest row.
    order = (stamp * len(shards) + owner.to(stamp)).argsort(stable=True)
    order = order[index[order].argsort(stable=True)]
    ordered = index[order]
    is_last = torch.ones_like(ordered, dtype=torch.bool)
    is_last[:-1] = ordered[1:] != ordered[:-1]
    mine = order[is_last].tensor_split(world_size)[rank]
    # Row by row from where it lies: no copy of the whole bank.
    starts = torch.tensor([0, *used[:-1]]).cumsum(0)
    features = shards[0]["features"].new_empty(
        shards[0]["features"].shape[0], mine.numel(), shards[0]["features"].shape[2]
    )
    for number, shard in enumerate(shards):
        here = (owner[mine] == number).nonzero().flatten()
        features[:, here] = shard["features"][:, mine[here] - starts[number]]
    return {
        **shards[0],
        "features": features,
        "index": index[mine],
        "stamp": stamp[mine],
        "num_rows": torch.tensor(mine.numel()),
    }


def queue_shard(shards: Sequence[State], rank: int, world_size: int) -> State | None:
    """A process's part of a queue that another number of processes wrote.

    The rows, oldest first, go round; where they do not divide, the oldest few are lost.

    Args:
        shards: `FeatureQueue.state_dict()` of each process that wrote.
        rank: the process that reads.
        world_size: processes that read.

    Returns:
        The state of a queue of (total rows / world_size), or None where they do not
        divide.
    """
    length = sum(shard["features"].shape[1] for shard in shards)
    if length % world_size:
        return None
    by_age = [_oldest_first(shard) for shard in shards]
    newest = min(rows.shape[1] for rows in by_age)
    # Row i of every process stood in the same batch, or nearly: they stay together.
    rows = torch.stack([r[:, r.shape[1] - newest :] for r in by_age], dim=2).flatten(
        1, 2
    )
    each = rows.shape[1] // world_size
    mine = rows[:, rows.shape[1] - each * world_size :][:, rank::world_size]
    features = mine.new_zeros(mine.shape[0], length // world_size, mine.shape[2])
    features[:, :each] = mine
    return {
        "features": features,
        "next_row": torch.tensor(each % features.shape[1]),
        "num_filled": torch.tensor(each),
    }


def _oldest_first(shard: State) -> Tensor:
    """The real rows of a queue's ring, (A, filled, D)."""
    features, filled = shard["features"], int(shard["num_filled"])
    if filled < features.shape[1]:
        return features[:, :filled]
    return features.roll(-int(shard["next_row"]), dims=1)


def _product(shape: Sequence[int]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
