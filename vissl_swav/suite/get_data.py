"""`vissl-swav data NAME`: a benchmark data set, made, checked and described."""

import argparse
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.console import Console

from vissl_swav.data.benchmark_facts import BENCHMARKS, find
from vissl_swav.data.benchmarks import LISTS, Benchmark
from vissl_swav.data.check import DataReport, check_images
from vissl_swav.data.errors import DataError
from vissl_swav.data.image_list import open_images
from vissl_swav.data.label_lists import read_lists
from vissl_swav.data.new_folder import check_new
from vissl_swav.suite import make_data

MAX_FILES = 20
# What is listed of each data set where no name is given.
BRIEF = ("images", "page", "terms", "download", "becomes", "paper")


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns 0, 1 for unreadable images, 2 for bad input."""
    try:
        return run(options)
    except (DataError, OSError) as error:
        _print(f"vissl-swav data: {error}", "red", error=True)
        return 2


def run(options: argparse.Namespace) -> int:
    """Lists, describes, or makes and checks.

    Raises:
        DataError: the data are not there, or not as they must be.
    """
    if options.name is None:
        for benchmark in BENCHMARKS.values():
            _describe(benchmark, brief=True)
        return 0
    benchmark = find(options.name)
    if not (options.source or options.out or options.download):
        _describe(benchmark)
        return 0
    _refuse_foreign_options(benchmark, options)
    is_imagenet = benchmark.name == "imagenet"
    out = None if is_imagenet else _new_out(benchmark, options)
    local = _local(benchmark, options, out)
    if options.download:
        make_data.download(benchmark, local, _command(benchmark, local, out))
    if not local.is_dir():
        raise DataError(f"there is no folder {local}. Check --from for a typing error.")
    try:
        if out is None:
            make_data.check_imagenet(local)
        else:
            make_data.make(benchmark, local, out, options)
    except DataError as error:
        hint = _hint(benchmark, local, downloaded=options.download)
        raise DataError(f"{error}{hint}") from error
    reports = _check(benchmark, local if out is None else out, options.sample)
    _show_next(benchmark, local, out, options)
    return 1 if any(report.unreadable for report in reports) else 0


def _hint(benchmark: Benchmark, local: Path, *, downloaded: bool) -> str:
    """What may be the matter with the archives."""
    if benchmark.name in make_data.PERCENT:
        return ""
    there = [a.name for a in benchmark.archives if (local / a.name).exists()]
    marks = [a.mark for a in benchmark.archives if (local / a.mark).exists()]
    if downloaded and marks:
        return (
            f" {' and '.join(marks)} in {local} say that the archives are unpacked: "
            "remove these marks to have it done again."
        )
    if there and not downloaded and not marks:
        return (
            f" {' and '.join(there)} lies in {local}: with --download it is checked "
            "and unpacked, without a network too."
        )
    return ""


def _refuse_foreign_options(benchmark: Benchmark, options: argparse.Namespace) -> None:
    if (options.list or options.draw) and benchmark.name not in make_data.PERCENT:
        raise DataError(
            f"--list and --draw belong to {' and '.join(make_data.PERCENT)}; "
            f"{benchmark.name} has no subset."
        )
    if benchmark.name == "imagenet" and options.out:
        raise DataError(
            "ImageNet is used where it lies, and only checked: leave --out out."
        )
    linked = benchmark.layout != LISTS and benchmark.name not in make_data.ARRAYS
    if options.copy and not linked:
        raise DataError(
            f"--copy belongs to data sets that are linked; of {benchmark.name} are "
            f"written {'lists' if benchmark.layout == LISTS else 'PNG files'}."
        )


def _new_out(benchmark: Benchmark, options: argparse.Namespace) -> Path:
    if not options.out:
        raise DataError(f"--out is missing: a new folder for {benchmark.name}.")
    return check_new(options.out)


def _local(benchmark: Benchmark, options: argparse.Namespace, out: Path | None) -> Path:
    if options.source:
        return Path(options.source).expanduser().absolute()
    subset = benchmark.name in make_data.PERCENT
    if options.download and out is not None and benchmark.archives and not subset:
        return out.with_name(f"{out.name}-download")
    ways = "" if subset or not benchmark.archives else ", or --download"
    raise DataError(
        f"--from is missing: the folder with {benchmark.wants}{ways}. It comes from "
        f"{benchmark.page}."
    )


def _command(benchmark: Benchmark, local: Path, out: Path | None) -> str:
    words = ["vissl-swav", "data", benchmark.name, "--from", str(local), "--download"]
    return shlex.join([*words, *(["--out", str(out)] if out else [])])


def _check(benchmark: Benchmark, folder: Path, sample: int) -> list[DataReport]:
    """Decodes some images of each split, and says what is there."""
    _print(str(folder), "bold")
    reports = []
    for split, expected in benchmark.num_images.items():
        if benchmark.layout == LISTS:
            images, labels = read_lists(folder, split)
        else:
            images = open_images(folder / split)
            labels = np.array(images.labels)
        report = check_images(images, num_decoded=sample)
        counts = _images_per_class(labels)
        _print(
            f"  {split}: {report.count} images, {len(counts)} classes of {min(counts)} "
            f"to {max(counts)} images; {report.num_decoded} tried, "
            f"{len(report.unreadable)} broken"
        )
        for warning in _warnings(report, benchmark, split, expected, len(counts)):
            _print(f"  warning: {warning}", "yellow")
        for name, reason in report.unreadable[:MAX_FILES]:
            _print(f"  broken: {name}: {reason}", "red")
        reports.append(report)
    return reports


def _images_per_class(labels: np.ndarray) -> list[int]:
    if labels.ndim == 2:
        return (labels == 1).sum(axis=0).tolist()
    return np.unique(labels, return_counts=True)[1].tolist()


def _warnings(
    report: DataReport, benchmark: Benchmark, split: str, images: int, classes: int
) -> Iterator[str]:
    if (report.count, classes) != (images, benchmark.num_classes):
        yield (
            f"{split} of {benchmark.title} has {images} images and "
            f"{benchmark.num_classes} classes as published, not {report.count} and "
            f"{classes}: a figure on it does not stand beside published ones."
        )
    yield from report.warnings


def _show_next(
    benchmark: Benchmark, local: Path, out: Path | None, options: argparse.Namespace
) -> None:
    folder = local if out is None else out
    if options.draw:
        _print("The training images are an own draw, not SimCLR's list: say so.")
    if out is None:
        pass
    elif benchmark.layout == LISTS:
        _print(f"The lists point to the images in {local}: leave them there.")
    elif next((out / "train").glob("*/*")).is_symlink():
        _print(f"The images are symbolic links to {local}: leave it there.")
    elif options.download and benchmark.name not in make_data.PERCENT:
        _print(f"{local} is no longer needed.")
    named = f"{benchmark.name}={folder}"
    _print(f"Next:  vissl-swav table CHECKPOINT --data {shlex.quote(named)}")
    _print("or, with VISSL's own config, the overrides:")
    for override in overrides(benchmark, folder):
        _print(f"  {shlex.quote(override)}")


def overrides(benchmark: Benchmark, folder: Path) -> list[str]:
    """What makes a config of VISSL's read the data set.

    Args:
        benchmark: the data set.
        folder: where it was made, or for ImageNet where it lies.
    """
    found = []
    for key, split in zip(("TRAIN", "TEST"), benchmark.num_images, strict=True):
        prefix = f"config.DATA.{key}"
        if benchmark.layout == LISTS:
            kind, images = "disk_filelist", f"{folder}/{split}_images.npy"
            found.append(f'{prefix}.LABEL_PATHS=["{folder}/{split}_labels.npy"]')
        else:
            kind, images = "disk_folder", f"{folder}/{split}"
        found += [
            f"{prefix}.DATA_SOURCES=[{kind}]",
            f"{prefix}.LABEL_SOURCES=[{kind}]",
            f'{prefix}.DATA_PATHS=["{images}"]',
        ]
    return found


def _describe(benchmark: Benchmark, *, brief: bool = False) -> None:
    images = ", ".join(f"{n} {split}" for split, n in benchmark.num_images.items())
    rows = {
        "images": f"{images}; {benchmark.num_classes} classes ({benchmark.source})",
        "page": benchmark.page,
        "terms": benchmark.terms,
        "download": benchmark.download,
        "needs": benchmark.wants,
        "splits": benchmark.split,
        "becomes": "checked where it lies"
        if benchmark.name == "imagenet"
        else f"{benchmark.layout} in OUT",
        "paper": benchmark.paper,
        "VISSL": "\n            ".join(benchmark.host_configs),
    }
    _print(f"{benchmark.name}: {benchmark.title}", "bold")
    for name in BRIEF if brief else rows:
        text = rows[name]
        _print(f"  {name:9s} {text}")


def _print(text: str, style: str = "default", *, error: bool = False) -> None:
    console = Console(stderr=error, file=None if error else sys.stdout)
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
