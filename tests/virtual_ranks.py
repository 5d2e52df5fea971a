"""Several ranks in one process: a thread each, and collectives that meet at barriers.

Faster than `gloo.run`, for tests over many random cases.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch


class VirtualCollective:
    """The `Collective` protocol between threads; every call meets all ranks."""

    def __init__(self, rank, world_size, board, barrier):
        self.rank, self.world_size = rank, world_size
        self._board, self._barrier = board, barrier

    def all_gather(self, tensor):
        self._board[self.rank] = tensor.detach().clone()
        self._barrier.wait()
        assert len({(t.shape, t.dtype) for t in self._board}) == 1
        stacked = torch.stack(self._board)
        self._barrier.wait()
        return stacked

    def all_reduce_sum(self, tensor):
        return self.all_gather(tensor).sum(dim=0, dtype=tensor.dtype)

    def all_reduce_max(self, tensor):
        return self.all_gather(tensor).amax(dim=0)


def run(function, world_size, timeout=60):
    """`[function(collective) for each rank]`; an error on one rank ends them all."""
    barrier = threading.Barrier(world_size, timeout=timeout)
    board = [torch.empty(0)] * world_size

    def one(rank):
        try:
            return function(VirtualCollective(rank, world_size, board, barrier))
        except Exception:
            barrier.abort()
            raise

    with ThreadPoolExecutor(world_size) as pool:
        tasks = [pool.submit(one, rank) for rank in range(world_size)]
    errors = [task.exception() for task in tasks if task.exception()]
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    return [task.result() for task in tasks]
