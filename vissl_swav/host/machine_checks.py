"""Checks before a run: precision, processes and memory of this machine."""

import os
from pathlib import Path

import torch

from vissl_swav.host import settings
from vissl_swav.host.errors import StartError

ALLOW_OVERSUBSCRIPTION = "VISSL_SWAV_ALLOW_OVERSUBSCRIPTION"
IN_FLOAT32 = "set config.MODEL.AMP_PARAMS.USE_AMP=false"


def check_machine(run: settings.RunFacts) -> None:
    """Precision everywhere; devices and memory unless the run goes to SLURM's machines.

    Raises:
        StartError: the first thing that makes the run impossible.
    """
    _check_precision(run)
    if not run.on_slurm:
        _check_devices(run)
        _check_memory(run)


def _check_precision(run: settings.RunFacts) -> None:
    key = "config.MODEL.AMP_PARAMS.AMP_DTYPE"
    if run.half_precision not in (None, "float16", "bfloat16"):
        raise StartError(
            f"{key} is {run.half_precision!r}; wanted float16 or bfloat16.", key=key
        )
    if run.half_precision == "float16" and run.device == "cpu":
        raise StartError(
            f"config.MODEL.AMP_PARAMS.USE_AMP asks for float16 on the CPU; {IN_FLOAT32}"
            f", or {key}=bfloat16.",
            key="config.MODEL.AMP_PARAMS.USE_AMP",
        )


def _check_devices(run: settings.RunFacts) -> None:
    if run.device == "gpu":
        count = torch.cuda.device_count()
        what = f"{count} CUDA devices"
        cure = (
            "On a machine without a GPU: config.MACHINE.DEVICE=cpu "
            "config.DISTRIBUTED.BACKEND=gloo config.DISTRIBUTED.NUM_PROC_PER_NODE=1, "
            f"and {IN_FLOAT32}."
        )
    else:
        count = os.cpu_count() or 1
        if os.environ.get(ALLOW_OVERSUBSCRIPTION) == "1":
            count = max(count, run.processes_per_node)
        what = f"{count} CPU cores"
        cure = f"{ALLOW_OVERSUBSCRIPTION}=1 allows more processes than cores."
    if run.processes_per_node > count:
        raise StartError(
            f"config.DISTRIBUTED.NUM_PROC_PER_NODE is {run.processes_per_node}, but "
            f"this machine has {what}. {cure}",
            key="config.DISTRIBUTED.NUM_PROC_PER_NODE",
        )
    if run.device == "cpu" and run.backend == "nccl":
        raise StartError(
            "config.DISTRIBUTED.BACKEND is nccl, which needs CUDA, and MACHINE.DEVICE "
            "is cpu; set config.DISTRIBUTED.BACKEND=gloo.",
            key="config.DISTRIBUTED.BACKEND",
        )


def _check_memory(run: settings.RunFacts) -> None:
    """Prototypes (weight, gradient, momentum) and two score matrices, in fp32."""
    available = memory_bytes(run.device)
    # The processes of a machine share its memory; each has a GPU of its own.
    sharing = run.processes_per_node if run.device == "cpu" else 1
    total = sum(run.num_prototypes)
    prototypes = 3 * 4 * total * run.embedding_dim
    scores = 2 * 4 * total * run.rows_per_process
    queue = 2 * 4 * total * run.queue_rows * run.num_assign_crops
    needed = sharing * (prototypes + scores + queue)
    if available is not None and needed > available:
        raise StartError(
            f"{total} prototypes need {needed / 2**30:.1f} GiB ({sharing} processes, "
            f"rows {run.rows_per_process}, queue {run.queue_rows}), and there are "
            f"{available / 2**30:.1f} GiB; lower num_clusters in "
            "config.MODEL.HEAD.PARAMS, the batch or the number of crops.",
            key="config.MODEL.HEAD.PARAMS",
        )


def memory_bytes(device: str) -> int | None:
    """Memory of the first GPU, or what the machine can still give; None: unknown."""
    if device == "gpu":
        # Free memory would be a context on that GPU in every process that asks.
        return torch.cuda.get_device_properties(0).total_memory
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
