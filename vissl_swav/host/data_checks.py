"""Checks before a run: what the images, their labels and a memory bank must be.

Every path is listed once: images are counted as they are looked at, and the plan of the
run takes the count from here.
"""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vissl_swav.data.check import check_images, count_classes
from vissl_swav.data.errors import DataError
from vissl_swav.data.folders import (
    ImageFolderReport,
    check_image_folder,
    check_same_classes,
)
from vissl_swav.data.image_list import open_images
from vissl_swav.data.listed_images import check_listed_images
from vissl_swav.data.shard_sample import look_into_shards
from vissl_swav.health.plan import steps_per_epoch
from vissl_swav.health.plan_memory import bank_bytes
from vissl_swav.health.plan_verdicts import more_clusters, too_few_images
from vissl_swav.host import machine_checks, settings
from vissl_swav.host.errors import StartError

_NUM_TRIED = 16
_NUM_SHARDS_TRIED = 4
Counts = dict[str, int | None]


class _Looked(NamedTuple):
    """What one path holds: its images, and its classes where they have names."""

    count: int | None
    classes: ImageFolderReport | None = None


def check_data(run: settings.RunFacts, *, torchrun: bool) -> settings.RunFacts:
    """Every split of the run; `torchrun`: torchrun started this process.

    Returns:
        The facts, with the number of training images.

    Raises:
        StartError: the first thing that makes the run impossible.
    """
    counts = look_at_data(run, torchrun=torchrun)
    check_counts(run, counts)
    return replace(run, num_images=counts.get("TRAIN"))


def look_at_data(run: settings.RunFacts, *, torchrun: bool = False) -> Counts:
    """Images of every split, some of them decoded; None where only the host can tell.

    Raises:
        StartError: a path that is not there, holds no images or unreadable ones; or
            labels that mean other classes in another split.
    """
    counts: Counts = {}
    classes: list[ImageFolderReport] = []
    for split in run.splits:
        _check_lists(split)
        if not split.paths:
            _check_catalogue(split)
        if torchrun and split.copied_to_local_disk:
            raise StartError(
                f"config.DATA.{split.name}.COPY_TO_LOCAL_DISK is the work of VISSL's "
                "own launcher; start without torchrun, or copy the data yourself.",
                key=f"config.DATA.{split.name}.COPY_TO_LOCAL_DISK",
            )
        looked = [
            _look(split, source, path)
            for source, path in zip(split.sources, split.paths, strict=False)
        ]
        counts[split.name] = _limited(split, looked)
        if len(looked) == 1 and looked[0].classes and split.labelled:
            classes.append(looked[0].classes)
    _check_classes(classes)
    return counts


def check_counts(run: settings.RunFacts, counts: Counts) -> None:
    """Enough images for a batch of every process, and for the clusters of a bank.

    Raises:
        StartError: there are fewer.
    """
    for split in run.splits:
        count = counts[split.name]
        if count is None:
            continue
        steps = steps_per_epoch(
            count,
            batch_per_process=split.batch,
            world_size=run.world_size,
            drops_last=split.drops_last,
        )
        key = f"config.DATA.{split.name}.BATCHSIZE_PER_REPLICA"
        if steps == 0 and split.streamed is not None:
            raise _short_stream(count, split.batch * run.world_size)
        if steps == 0:
            verdict = too_few_images(count, split.batch, run.world_size)
            where = ", ".join(split.paths)
            raise StartError(f"{where}: {verdict.text}", key=key)
        if run.keeps_bank and split.name == "TRAIN":
            used = steps * split.batch * run.world_size if split.drops_last else count
            _check_bank(run, used)


def _short_stream(images: int, global_batch: int) -> StartError:
    key = "config.DATA.TRAIN.STREAM.NUM_IMAGES"
    return StartError(
        f"{key} over config.OPTIMIZER.num_epochs makes {images} images an epoch, fewer "
        f"than one step of all processes ({global_batch}), and an incomplete step is "
        f"dropped; set NUM_IMAGES to {global_batch} times the epochs at least.",
        key=key,
    )


def _look(split: settings.SplitFacts, source: str, path: str) -> _Looked:
    key = f"config.DATA.{split.name}.DATA_PATHS"
    try:
        if source == settings.SOURCE_NAME:
            return _look_at_images(path)
        if source == settings.STREAM_NAME:
            look_into_shards(path, num_shards=_NUM_SHARDS_TRIED, num_images=_NUM_TRIED)
            return _Looked(split.streamed)
        if source == "disk_folder":
            report = check_image_folder(path, min_images=1)
            return _Looked(report.num_images, report)
        if source == "disk_filelist":
            return _Looked(_look_at_list(split, path))
    except DataError as error:
        raise StartError(f"{key}: {error}", key=key) from error
    return _Looked(None)


def _look_at_images(path: str) -> _Looked:
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
    if images.class_names is None:
        return _Looked(len(images))
    counts = count_classes(images) or {}
    classes = ImageFolderReport(path=Path(path), images_per_class=counts, num_decoded=0)
    return _Looked(len(images), classes)


def _look_at_list(split: settings.SplitFacts, path: str) -> int | None:
    """Length of a `.npy` list; a few of its images are decoded.

    What is no array, or one of pickled objects, only the host can read: None, or the
    length that its head names.

    Raises:
        DataError: there is no such file, no text in it, or an image cannot be read.
    """
    from numpy.lib import format as npy

    if not Path(path).is_file():
        raise DataError(
            f"{path} is no file; disk_filelist wants a .npy list of image paths. "
            "For a folder of images set DATA_SOURCES=[disk_folder]."
        )
    try:
        with open(path, "rb") as file:
            is_first = npy.read_magic(file) == (1, 0)
            read = npy.read_array_header_1_0 if is_first else npy.read_array_header_2_0
            shape, _, kind = read(file)
        if kind.hasobject:
            return shape[0] if shape else None
        listed = np.load(path, allow_pickle=False, mmap_mode="r")
    except (OSError, ValueError):
        return None
    old, new = split.prefixes
    check_listed_images(Path(path), listed, old_prefix=old, new_prefix=new)
    return len(listed)


def _limited(split: settings.SplitFacts, looked: list[_Looked]) -> int | None:
    """Images of a split: of the shortest of its paths, at most `DATA_LIMIT`."""
    counts = [one.count for one in looked]
    known = [count for count in counts if count is not None]
    if not counts or len(known) < len(counts):
        return None
    count = min(known)
    if split.limit < 0:
        return count
    if not 0 < split.limit <= count:
        key = f"config.DATA.{split.name}.DATA_LIMIT"
        raise StartError(
            f"{key} is {split.limit}, and there are {count} images in "
            f"{', '.join(split.paths)}; wanted 1 to {count}, or -1 for all of them.",
            key=key,
        )
    return split.limit


def _check_bank(run: settings.RunFacts, num_images: int) -> None:
    """Enough images for the clusters, and memory for their features."""
    most = max(run.num_prototypes)
    if most > num_images:
        verdict = more_clusters(most, num_images)
        raise StartError(verdict.text, key=f"config.{verdict.key}")
    available = None if run.on_slurm else machine_checks.memory_bytes(run.device)
    sharing = machine_checks.processes_sharing(run)
    needed = sharing * bank_bytes(machine_checks.shapes(run, num_images))
    if available is not None and needed > available:
        raise StartError(
            f"the memory bank of {num_images} images needs {needed / 2**30:.1f} GiB on "
            f"a machine's {sharing} process(es), and there are "
            f"{available / 2**30:.1f} GiB; take more processes, bank_dtype=float16, or "
            "one crop in crops_for_assign.",
            key="config.DATA.TRAIN.DATA_PATHS",
        )


def _check_classes(classes: list[ImageFolderReport]) -> None:
    """Labels are the places of class folders: two splits must have the same ones."""
    if len(classes) != 2:
        return
    try:
        check_same_classes(*classes)
    except DataError as error:
        key = "config.DATA.TEST.DATA_PATHS"
        raise StartError(f"{key}: {error}", key=key) from error


def _check_lists(split: settings.SplitFacts) -> None:
    """One name, and one path where there are any, for each source."""
    where = f"config.DATA.{split.name}"
    lists = {"DATASET_NAMES": split.names, "DATA_PATHS": split.paths}
    if not split.sources:
        raise StartError(
            f"{where}.DATA_SOURCES is empty, but the run reads that split; name its "
            f"source, {where}.DATA_SOURCES=[{settings.SOURCE_NAME}] say (a test split "
            "is read where config.TEST_MODEL is true).",
            key=f"{where}.DATA_SOURCES",
        )
    for name, entries in lists.items():
        if len(entries) == len(split.sources) or (name == "DATA_PATHS" and not entries):
            continue
        raise StartError(
            f"{where}.{name} has {len(entries)} entries and DATA_SOURCES "
            f"{len(split.sources)}; wanted one of each (a test split is read where "
            "config.TEST_MODEL is true).",
            key=f"{where}.{name}",
        )


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
