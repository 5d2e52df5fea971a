"""Runs a function on several gloo processes: file store, no port, a time limit."""

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run(function, world_size, *args, timeout=120):
    """`[function(rank, world_size, *args) for each rank]`, one process a rank.

    The function must be importable from its module (spawned children import it).
    """
    with tempfile.TemporaryDirectory() as folder:
        context = mp.spawn(
            _child,
            args=(function, world_size, folder, args),
            nprocs=world_size,
            join=False,
        )
        try:
            remaining = float(timeout)
            while not context.join(timeout=0.5):
                remaining -= 0.5
                if remaining <= 0:
                    raise TimeoutError(f"{function.__name__}: over {timeout} s (hang?)")
        finally:
            for process in context.processes:
                if process.is_alive():
                    process.kill()
        return [
            torch.load(Path(folder) / f"result{rank}.pt", weights_only=False)
            for rank in range(world_size)
        ]


def _child(rank, function, world_size, folder, args):
    torch.set_num_threads(1)
    store = dist.FileStore(str(Path(folder) / "store"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    try:
        torch.save(function(rank, world_size, *args), Path(folder) / f"result{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()
