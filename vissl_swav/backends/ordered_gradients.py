"""Gradients summed in the order of the ranks, wherever they lie in a bucket.

An all-reduce of three or more processes adds up the parts of a buffer in different
orders, one for each part of it. DistributedDataParallel rebuilds its buckets after the
first step, so the first step after a resume has other buckets than the same step of an
uninterrupted run: the sums differ in the last bit, and soon in more. Of two processes
there is one order only.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def sum_in_rank_order(model: nn.Module | None) -> bool:
    """Lets a model of `DistributedDataParallel` add up its gradients in rank order.

    For parameters on the CPU and three or more processes; each receives the gradients
    of all others, `world_size - 1` times their size, where an all-reduce moves twice
    that size at most. On a GPU no bit is promised, and nothing is changed.

    Args:
        model: the wrapped model, or what else stands in its place; before its first
            backward pass.

    Returns:
        Whether it does so now. Not where it has a way of its own, fp16 say.
    """
    if not isinstance(model, nn.parallel.DistributedDataParallel):
        return False
    on_cpu = all(p.device.type == "cpu" for p in model.parameters())
    taken = bool(getattr(model, "_comm_hooks", ()))
    if taken or not on_cpu or dist.get_world_size(model.process_group) < 3:
        return False
    model.register_comm_hook(model.process_group, _mean_in_rank_order)
    return True


def _mean_in_rank_order(
    group: dist.ProcessGroup,
    bucket: dist.GradBucket,  # pyright: ignore[reportPrivateImportUsage]
) -> torch.futures.Future[Tensor]:
    """The mean over ranks of a bucket's gradients, `((g_0 + g_1) + g_2 + ...) / W`."""
    buffer: Tensor = bucket.buffer()
    W = dist.get_world_size(group)
    parts = [torch.empty_like(buffer) for _ in range(W)]
    work: Any = dist.all_gather(parts, buffer, group=group, async_op=True)

    def add_up(_: object) -> Tensor:
        total = parts[0]
        for part in parts[1:]:
            total += part
        return total.div_(W)

    return work.get_future().then(add_up)
