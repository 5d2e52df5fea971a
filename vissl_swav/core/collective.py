"""What an algorithm needs from the other processes, as an argument.

Algorithms in `core` take `collective: Collective = LOCAL`. `LOCAL` is one process on
its own; `vissl_swav.backends.torch_collective` implements the same protocol over
torch.distributed. All processes run the same program: a method is called by all of
them, in the same order, with tensors of the same shape and dtype.
"""

from typing import Protocol

from torch import Tensor


class Collective(Protocol):
    """The exchanges between processes. Every method returns a new tensor."""

    @property
    def world_size(self) -> int:
        """Number of processes."""
        ...

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        ...

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Stacks every process's `tensor` in rank order: (...) -> (world_size, ...)."""
        ...

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """Sums `tensor` over the processes, element by element: (...) -> (...)."""
        ...

    def all_reduce_max(self, tensor: Tensor) -> Tensor:
        """The largest over the processes, element by element: (...) -> (...)."""
        ...


class LocalCollective:
    """One process: gathering adds an axis of length 1, summing changes nothing."""

    @property
    def world_size(self) -> int:
        """Always 1."""
        return 1

    @property
    def rank(self) -> int:
        """Always 0."""
        return 0

    def all_gather(self, tensor: Tensor) -> Tensor:
        """(...) -> (1, ...)."""
        return tensor.detach().clone().unsqueeze(0)

    def all_reduce_sum(self, tensor: Tensor) -> Tensor:
        """A copy of `tensor`."""
        return tensor.detach().clone()

    def all_reduce_max(self, tensor: Tensor) -> Tensor:
        """A copy of `tensor`."""
        return tensor.detach().clone()


LOCAL: Collective = LocalCollective()
