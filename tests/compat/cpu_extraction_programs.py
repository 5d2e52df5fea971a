"""What the processes of `test_cpu_extraction.py` run; spawned children import it."""

import warnings

import torch

import vissl_swav.compat

vissl_swav.compat.apply()


def gather_uneven(rank, world_size):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vissl.trainer.trainer_main import SelfSupervisionTrainer
        from vissl.utils.distributed_utils import (
            all_gather_heterogeneous,
            all_gather_sizes,
        )
    rows = torch.full((rank + 1, 2), float(rank))
    sizes = all_gather_sizes(rows)
    gathered = all_gather_heterogeneous(sizes, rows)
    from vissl.trainer import trainer_main

    from vissl_swav.compat.cpu_extraction import _gather

    clusters = {10 * rank + i: rank for i in range(rank)}
    assert SelfSupervisionTrainer is trainer_main.SelfSupervisionTrainer
    return sizes, gathered, _gather(trainer_main, clusters)
