"""The `Collective` protocol over torch.distributed."""

import torch
import torch.distributed as dist
from torch import Tensor

from vissl_swav.core.collective import LOCAL, Collective


class TorchCollective:
    """Exchanges over one process group (gloo or NCCL). No gradient crosses it.

    Args:
        group: the process group; the default group if None.
    """

    def __init__(self, group: dist.ProcessGroup | None = None):
        self._group = group

    @property
    def world_size(self) -> int:
        """Number of processes in the group."""
        return dist.get_world_size(self._group)

    @property
    def rank(self) -> int:
        """This process's number in the group."""
        return dist.get_rank(self._group)

    @torch.no_grad()
    def all_gather(self, tensor: Tensor) -> Tensor:
        """(...) -> (world_size, ...), in rank order."""
        tensor = tensor.detach().contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor, group=self._group)
        return torch.stack(parts)

    @torch.no_grad()
    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """The sum over the group, on every process."""
        total = tensor.detach().clone()
        dist.all_reduce(total, group=self._group)
        return total

    @torch.no_grad()
    def all_reduce_max(self, tensor: Tensor) -> Tensor:
        """The largest over the group, element by element, on every process."""
        largest = tensor.detach().clone()
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self._group)
        return largest


def collective(group: dist.ProcessGroup | None = None) -> Collective:
    """The collective of this process: torch's where a group of several exists.

    Call it after the process group was made; without one, or alone, it is `LOCAL`.

    Args:
        group: the processes that share a problem; the default group if None.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1:
        return TorchCollective(group)
    return LOCAL
