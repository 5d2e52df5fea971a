"""What can be known to go wrong before anything is loaded: one message, exit code 2."""

import os
from pathlib import Path
from typing import Any

import torch
import yaml

from vissl_swav.data.errors import DataError
from vissl_swav.data.folders import check_image_folder, check_same_classes
from vissl_swav.host import settings
from vissl_swav.host.errors import StartError

ALLOW_OVERSUBSCRIPTION = "VISSL_SWAV_ALLOW_OVERSUBSCRIPTION"
IN_FLOAT32 = "set config.MODEL.AMP_PARAMS.USE_AMP=false"


def check(cfg: Any, *, torchrun: bool = False) -> settings.RunFacts:
    """Runs every check on an inferred config; returns what they looked at.

    Args:
        cfg: the config.
        torchrun: this is one of the processes that torchrun started.

    Raises:
        StartError: the first thing that makes the run impossible.
    """
    run = settings.run_facts(cfg)
    _check_precision(run)
    if not run.on_slurm:
        _check_machine(run)
        _check_memory(run)
    _check_data(run, torchrun=torchrun)
    _check_weights(run)
    _check_checkpoint_folder(run)
    return run


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


def _check_machine(run: settings.RunFacts) -> None:
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


def _check_data(run: settings.RunFacts, *, torchrun: bool) -> None:
    for split in run.splits:
        if not split.paths:
            _check_catalogue(split)
        if torchrun and split.copied_to_local_disk:
            raise StartError(
                f"config.DATA.{split.name}.COPY_TO_LOCAL_DISK is the work of VISSL's "
                "own launcher; start without torchrun, or copy the data yourself.",
                key=f"config.DATA.{split.name}.COPY_TO_LOCAL_DISK",
            )
        for source, path in zip(split.sources, split.paths, strict=False):
            _check_source(run, split, source, path)
    _check_classes(run)


def _check_source(
    run: settings.RunFacts, split: settings.SplitFacts, source: str, path: str
) -> None:
    key = f"config.DATA.{split.name}.DATA_PATHS"
    count = None
    try:
        if source == "disk_folder":
            count = check_image_folder(path, min_images=1).num_images
        elif source == "disk_filelist" and not Path(path).is_file():
            raise DataError(
                f"{path} is no file; disk_filelist wants a .npy list of image paths. "
                "For a folder of images set DATA_SOURCES=[disk_folder]."
            )
    except DataError as error:
        raise StartError(f"{key}: {error}", key=key) from error
    if count is None or not split.drops_last:
        return
    count = min(count, split.limit) if split.limit > 0 else count
    batch = split.batch * run.world_size
    if count < batch:
        raise StartError(
            f"{path} has {count} images, fewer than one global batch of {batch} "
            f"({split.batch} x {run.world_size} processes), and an incomplete batch is "
            f"dropped; set config.DATA.{split.name}.BATCHSIZE_PER_REPLICA to at most "
            f"{count // run.world_size}.",
            key=key,
        )


def _check_classes(run: settings.RunFacts) -> None:
    """Labels are the places of class folders: two splits must have the same ones."""
    if len(run.splits) != 2 or any(s.sources != ["disk_folder"] for s in run.splits):
        return
    reports = [
        check_image_folder(path, min_images=1, num_decoded=0)
        for split in run.splits
        for path in split.paths
    ]
    try:
        if len(reports) == 2:
            check_same_classes(*reports)
    except DataError as error:
        key = "config.DATA.TEST.DATA_PATHS"
        raise StartError(f"{key}: {error}", key=key) from error


def _check_catalogue(split: settings.SplitFacts) -> None:
    """Without DATA_PATHS the host looks the data set up in its catalogue."""
    from vissl.data.dataset_catalog import VisslDatasetCatalog

    for source, name in zip(split.sources, split.names, strict=False):
        if source != "synthetic" and not VisslDatasetCatalog.has_data(name):
            key = f"config.DATA.{split.name}.DATA_PATHS"
            raise StartError(
                f"{key} is empty, and {name} stands in no catalogue of VISSL's; give "
                f"the images: {key}=[PATH].",
                key=key,
            )


def _check_weights(run: settings.RunFacts) -> None:
    path, key = run.initial_weights, "config.MODEL.WEIGHTS_INIT.PARAMS_FILE"
    if path and "://" not in path and not Path(path).is_file():
        raise StartError(f"{key} is {path}: there is no such file.", key=key)


def _check_memory(run: settings.RunFacts) -> None:
    """Prototypes (weight, gradient, momentum) and two score matrices, in fp32."""
    available = _memory_bytes(run.device)
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


def _memory_bytes(device: str) -> int | None:
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


def _check_checkpoint_folder(run: settings.RunFacts) -> None:
    """A folder with checkpoints of another run is not continued, nor written to."""
    folder = Path(run.checkpoint_folder)
    if folder.exists() and not folder.is_dir():
        raise StartError(
            f"config.CHECKPOINT.DIR is {folder}, which is a file; name a folder.",
            key="config.CHECKPOINT.DIR",
        )
    old_file = folder / "train_config.yaml"
    if not any(folder.glob("*.torch")):
        return
    if not old_file.is_file():
        raise StartError(
            f"{folder} holds checkpoints but no train_config.yaml, so whose they are "
            "is unknown; name another config.CHECKPOINT.DIR.",
            key="config.CHECKPOINT.DIR",
        )
    try:
        old = settings.identity(yaml.safe_load(old_file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise StartError(
            f"{old_file} cannot be read ({type(error).__name__}), so whether the "
            "checkpoints beside it are of this run is unknown; name another "
            "config.CHECKPOINT.DIR."
        ) from error
    different = [
        f"{key}: {old.get(key)!r} there, {value!r} here"
        for key, value in run.identity.items()
        if old.get(key) != value
    ]
    if different:
        raise StartError(
            f"{folder} holds checkpoints of another run ({'; '.join(different)}). "
            "Nothing was changed there; name another config.CHECKPOINT.DIR.",
            key="config.CHECKPOINT.DIR",
        )
