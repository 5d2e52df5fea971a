"""What can be known to go wrong before anything is loaded: one message, exit code 2."""

import os
from pathlib import Path
from typing import Any

import torch
import yaml

from vissl_swav.data.errors import DataError
from vissl_swav.data.folders import check_image_folder
from vissl_swav.host import settings
from vissl_swav.host.errors import StartError

ALLOW_OVERSUBSCRIPTION = "VISSL_SWAV_ALLOW_OVERSUBSCRIPTION"


def check(cfg: Any) -> None:
    """Runs every check on an inferred config.

    Raises:
        StartError: the first thing that makes the run impossible.
    """
    run = settings.run_facts(cfg)
    _check_machine(run)
    _check_data(run)
    if settings.is_ours(cfg):
        _check_crops(run)
        _check_memory(run)
    _check_checkpoint_folder(run)


def _check_machine(run: settings.RunFacts) -> None:
    if run.device == "gpu":
        count = torch.cuda.device_count()
        what = f"{count} CUDA devices"
        cure = (
            "On a machine without a GPU: config.MACHINE.DEVICE=cpu "
            "config.DISTRIBUTED.BACKEND=gloo config.DISTRIBUTED.NUM_PROC_PER_NODE=1."
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


def _check_data(run: settings.RunFacts) -> None:
    for split in run.splits:
        for source, path in zip(split.sources, split.paths, strict=False):
            key = f"config.DATA.{split.name}.DATA_PATHS"
            try:
                count = _count(source, path)
            except DataError as error:
                raise StartError(f"{key}: {error}", key=key) from error
            if count is not None and 0 < split.limit < count:
                count = split.limit
            batch = split.batch * run.world_size
            if split.name == "TRAIN" and count is not None and count < batch:
                raise StartError(
                    f"{path} has {count} images, fewer than one global batch of "
                    f"{batch} ({split.batch} x {run.world_size} processes); set "
                    "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA to at most "
                    f"{count // run.world_size}.",
                    key=key,
                )


def _count(source: str, path: str) -> int | None:
    """Number of images behind a data path; None where only the host knows."""
    if source == "disk_folder":
        return check_image_folder(path, min_images=1).num_images
    if source == "disk_filelist" and not Path(path).is_file():
        raise DataError(
            f"{path} is no file; disk_filelist wants a .npy list of image paths. For a "
            "folder of images set DATA_SOURCES=[disk_folder]."
        )
    return None


def _check_crops(run: settings.RunFacts) -> None:
    from vissl_swav.transforms.multicrop import MultiCrop

    for arguments in run.multi_crops:
        try:
            MultiCrop(**arguments)
        except (TypeError, ValueError) as error:
            raise StartError(
                f"config.DATA.TRAIN.TRANSFORMS, {settings.TRANSFORM_NAME}: {error}",
                key="config.DATA.TRAIN.TRANSFORMS",
            ) from error


def _check_memory(run: settings.RunFacts) -> None:
    """Prototypes (weight, gradient, momentum) and two score matrices, in fp32."""
    available = _available_bytes(run.device)
    for count in run.num_prototypes:
        prototypes = 3 * 4 * count * run.embedding_dim
        scores = 2 * 4 * count * run.rows_per_process
        queue = 2 * 4 * count * run.queue_rows * run.num_assign_crops
        needed = prototypes + scores + queue
        if available is not None and needed > available:
            raise StartError(
                f"{count} prototypes need {needed / 2**30:.1f} GiB a process (rows "
                f"{run.rows_per_process}, queue {run.queue_rows}), and "
                f"{available / 2**30:.1f} GiB are free; lower num_clusters in "
                "config.MODEL.HEAD.PARAMS, the batch or the number of crops.",
                key="config.MODEL.HEAD.PARAMS",
            )


def _available_bytes(device: str) -> int | None:
    if device == "gpu":
        return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
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
    if not any(folder.glob("*.torch")) or not old_file.is_file():
        return
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
