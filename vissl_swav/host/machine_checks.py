"""Checks before a run: precision, processes and memory of this machine."""

import os
from pathlib import Path

import torch

from vissl_swav.health.plan_memory import (
    Shapes,
    model_bytes,
    queue_bytes,
    score_bytes,
)
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
        _check_meeting_place(run)
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


def _check_meeting_place(run: settings.RunFacts) -> None:
    """`tcp` meets at HOST:PORT; on one machine the host finds a free port by `auto`."""
    host, _, port = run.run_id.rpartition(":")
    if run.init_method != "tcp" or (run.run_id == "auto" and run.num_nodes == 1):
        return
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        key = "config.DISTRIBUTED.RUN_ID"
        raise StartError(
            f"{key} is {run.run_id!r}, where the processes of {run.num_nodes} "
            "machine(s) would meet by tcp; wanted auto on one machine, on several "
            "HOST:PORT of the first one (10.0.0.1:29500, say).",
            key=key,
        )


def _check_memory(run: settings.RunFacts) -> None:
    """Prototypes (weight, gradient, momentum), their scores, the queue."""
    available = memory_bytes(run.device)
    total, sharing = sum(run.num_prototypes), processes_sharing(run)
    prototypes = model_bytes(total * run.embedding_dim, "sgd")
    scored = sharing * (prototypes + score_bytes(shapes(run)))
    queue = sharing * queue_bytes(shapes(run))
    if available is None or scored + queue <= available:
        return
    there = f"and there are {available / 2**30:.1f} GiB"
    if queue > scored:
        key = f"config.LOSS.{run.loss}.queue_length"
        raise StartError(
            f"the queue needs {queue / 2**30:.1f} GiB ({sharing} processes, "
            f"{run.queue_rows} rows each of {run.num_assign_crops} crops), {there}; "
            f"lower {key} (the paper: 3840; our longest: 65536).",
            key=key,
        )
    raise StartError(
        f"{total} prototypes need {scored / 2**30:.1f} GiB ({sharing} processes, "
        f"rows {run.batch_per_process * run.num_crops}, queue {run.queue_rows}), "
        f"{there}; lower num_clusters in config.MODEL.HEAD.PARAMS, the batch or the "
        "number of crops.",
        key="config.MODEL.HEAD.PARAMS",
    )


def processes_sharing(run: settings.RunFacts) -> int:
    """Processes of a machine share its memory; each has a GPU of its own."""
    return run.processes_per_node if run.device == "cpu" else 1


def shapes(run: settings.RunFacts, num_images: int = 0) -> Shapes:
    """Sizes on one process, with a bank of so many images."""
    return Shapes(
        num_prototypes=tuple(run.num_prototypes),
        embedding_dim=run.embedding_dim,
        batch_per_process=run.batch_per_process,
        num_crops=run.num_crops,
        num_assign_crops=run.num_assign_crops,
        queue_rows=run.queue_rows,
        num_images=num_images,
        world_size=run.world_size,
        bytes_per_bank_value=run.bytes_per_bank_value,
        bytes_per_queue_value=run.bytes_per_queue_value,
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
