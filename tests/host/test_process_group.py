"""The host's trainer starts its process group with the check."""

import os
import socket
import subprocess
import sys

import pytest

# What the host's launcher leaves to a trainer of two gloo processes on the CPU.
PROGRAM = """
import os, sys, warnings
warnings.simplefilter("ignore")
from vissl_swav.host import registration
registration.arm()
from vissl.config import AttrDict
from vissl.trainer import trainer_main
from vissl_swav.backends.process_group_check import ProcessGroupError
from vissl_swav.host import process_group
process_group.join(trainer_main)
process_group.join(trainer_main)
trainer = object.__new__(trainer_main.SelfSupervisionTrainer)
trainer.cfg = AttrDict({"DISTRIBUTED": AttrDict({
    "NUM_NODES": 1, "INIT_METHOD": "tcp", "BACKEND": "gloo"})})
trainer.dist_run_id = sys.argv[1]
trainer.distributed_rank = trainer.local_rank = int(os.environ["RANK"])
try:
    trainer.setup_distributed(False)
except ProcessGroupError as error:
    print(error)
    sys.exit(3)
import torch.distributed as dist
print("started", dist.get_rank(), dist.get_world_size())
dist.destroy_process_group()
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def start(host):
    place = f"127.0.0.1:{free_port()}"

    def run(rank, *, seconds):
        environment = {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "OMP_NUM_THREADS": "1",
            "VISSL_SWAV_START_SECONDS": str(seconds),
        }
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, place],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    return run


def test_two_trainers_start(start):
    processes = [start(rank, seconds=120) for rank in range(2)]
    for rank, process in enumerate(processes):
        out, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        assert f"started {rank} 2" in out


@pytest.mark.parametrize("rank", [0, 1])
def test_a_trainer_whose_other_never_comes_says_so(start, rank):
    out, err = start(rank, seconds=2).communicate(timeout=200)
    wanted = {
        0: "rank 1 of 2 did not come within 2 s",
        1: "which rank 0 opens, does not answer within 2 s",
    }
    assert wanted[rank] in out, err
    assert f"rank {rank} of 2 on host {socket.gethostname()}" in out
