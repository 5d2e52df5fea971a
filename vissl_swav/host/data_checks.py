"""Checks before a run: what the images, their labels and a memory bank must be."""

from pathlib import Path

from vissl_swav.data.check import check_images, count_classes
from vissl_swav.data.errors import DataError
from vissl_swav.data.folders import (
    ImageFolderReport,
    check_image_folder,
    check_same_classes,
)
from vissl_swav.data.image_list import open_images
from vissl_swav.host import settings
from vissl_swav.host.errors import StartError
from vissl_swav.host.machine_checks import memory_bytes

_NUM_TRIED = 16


def check_data(run: settings.RunFacts, *, torchrun: bool) -> None:
    """Every split of the run; `torchrun`: torchrun started this process.

    Raises:
        StartError: the first thing that makes the run impossible.
    """
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
        if source == settings.SOURCE_NAME:
            count = _count_readable(path)
        elif source == "disk_folder":
            count = check_image_folder(path, min_images=1).num_images
        elif source == "disk_filelist" and not Path(path).is_file():
            raise DataError(
                f"{path} is no file; disk_filelist wants a .npy list of image paths. "
                "For a folder of images set DATA_SOURCES=[disk_folder]."
            )
    except DataError as error:
        raise StartError(f"{key}: {error}", key=key) from error
    if count is None:
        return
    count = min(count, split.limit) if split.limit > 0 else count
    if run.keeps_bank and split.name == "TRAIN":
        in_batches = split.batch * run.world_size
        dropped = count % in_batches if split.drops_last else 0
        _check_bank(run, count - dropped or count)
    if not split.drops_last:
        return
    batch = split.batch * run.world_size
    if count < batch:
        raise StartError(
            f"{path} has {count} images, fewer than one global batch of {batch} "
            f"({split.batch} x {run.world_size} processes), and an incomplete batch is "
            f"dropped; set config.DATA.{split.name}.BATCHSIZE_PER_REPLICA to at most "
            f"{count // run.world_size}.",
            key=key,
        )


def _count_readable(path: str) -> int:
    """Images below a path of the source `images`; a few of them are decoded.

    One that cannot be read does not stop a run (another takes its place).

    Raises:
        DataError: no images, or none of the few can be read.
    """
    images = open_images(path)
    report = check_images(images, num_decoded=_NUM_TRIED)
    if len(report.unreadable) == report.num_decoded:
        name, reason = report.unreadable[0]
        raise DataError(
            f"none of {report.num_decoded} images tried of {path} can be read; {name}: "
            f"{reason}. Look at all of them: vissl-swav data-check {path} --all."
        )
    return len(images)


def _check_bank(run: settings.RunFacts, num_images: int) -> None:
    """Enough images for the clusters, and memory for their features."""
    most = max(run.num_prototypes)
    if most > num_images:
        raise StartError(
            f"num_clusters asks for {most} prototypes, but there are {num_images} "
            "images to label; lower it in config.MODEL.HEAD.PARAMS.",
            key="config.MODEL.HEAD.PARAMS",
        )
    available = None if run.on_slurm else memory_bytes(run.device)
    sharing = run.processes_per_node if run.device == "cpu" else 1
    row = run.num_assign_crops * run.embedding_dim * run.bytes_per_bank_value + 16
    # Images change ranks: up to two rows an image until they are settled.
    rows = min(num_images, 2 * -(-num_images // run.world_size))
    labels = 4 * num_images * (len(run.num_prototypes) + 1)
    needed = sharing * (row * rows + labels)
    if available is not None and needed > available:
        raise StartError(
            f"the memory bank of {num_images} images needs {needed / 2**30:.1f} GiB on "
            f"a machine's {sharing} process(es), and there are "
            f"{available / 2**30:.1f} GiB; take more processes, bank_dtype=float16, or "
            "one crop in crops_for_assign.",
            key="config.DATA.TRAIN.DATA_PATHS",
        )


def _check_classes(run: settings.RunFacts) -> None:
    """Labels are the places of class folders: two splits must have the same ones."""
    if len(run.splits) != 2 or not all(split.labelled for split in run.splits):
        return
    try:
        reports = [_classes_of(split) for split in run.splits]
        known = [report for report in reports if report is not None]
        if len(known) == 2:
            check_same_classes(*known)
    except DataError as error:
        key = "config.DATA.TEST.DATA_PATHS"
        raise StartError(f"{key}: {error}", key=key) from error


def _classes_of(split: settings.SplitFacts) -> ImageFolderReport | None:
    """Of a split that is one image folder; None where classes have no names."""
    if len(split.paths) != 1:
        return None
    (source,), (path,) = split.sources, split.paths
    if source == "disk_folder":
        return check_image_folder(path, min_images=1, num_decoded=0)
    images = open_images(path) if source == settings.SOURCE_NAME else None
    if images is None or images.class_names is None:
        return None
    counts = count_classes(images) or {}
    return ImageFolderReport(path=Path(path), images_per_class=counts, num_decoded=0)


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
