"""Turns what a user has of a benchmark data set into what the host reads."""

import json
import shlex
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from vissl_swav import __version__, compat
from vissl_swav.data import class_splits
from vissl_swav.data.archives import Unreachable, fetch
from vissl_swav.data.array_images import write_array_images
from vissl_swav.data.benchmarks import Benchmark
from vissl_swav.data.class_folders import (
    Done,
    Splits,
    check_splits,
    write_class_folders,
)
from vissl_swav.data.errors import DataError
from vissl_swav.data.label_lists import Listed, inaturalist18, places205, write_lists
from vissl_swav.data.new_folder import new_folder
from vissl_swav.suite.terminal import counting_bars
from vissl_swav.suite.voc_lists import voc07

PERCENT = {"imagenet_1percent": 1, "imagenet_10percent": 10}
ARRAYS = ("cifar10", "cifar100", "stl10")
# What writes to a folder, how many images that will be, and what chose them.
_Plan = tuple[Callable[[Path, Done], None], int | None, str]
_LISTS: dict[str, Callable[[Path], dict[str, Listed]]] = {
    "voc07": voc07,
    "places205": places205,
    "inaturalist18": inaturalist18,
}
_FILES: dict[str, Callable[[Path], Splits]] = {
    "food101": class_splits.food101,
    "pets": class_splits.pets,
    "dtd": class_splits.dtd,
    "flowers102": class_splits.flowers102,
    "eurosat": class_splits.eurosat,
}


def download(benchmark: Benchmark, local: Path, command: str) -> None:
    """Fetches and unpacks the archives that are not there yet.

    Args:
        benchmark: the data set.
        local: where its archives lie or are to lie.
        command: that goes on, for the message.

    Raises:
        DataError: it has no download, or no network was there; the message says what
            to do then.
    """
    if not benchmark.archives:
        raise DataError(
            f"{benchmark.title} cannot be downloaded by a program. Get it by "
            f"{benchmark.page}, unpack it, and name the folder with --from: wanted "
            f"{benchmark.wants}."
        )
    compat.apply()
    for archive in benchmark.archives:
        try:
            fetch(archive, local)
        except Unreachable as error:
            missing = [a for a in benchmark.archives if not (local / a.name).exists()]
            lines = [
                f"  curl -L -O {shlex.quote(other.url)}"
                + (f"   # MD5 {other.md5}" if other.md5 else "")
                for other in missing
            ]
            raise DataError(
                "\n".join(
                    [
                        f"{error} Without a network, on a machine that has one:",
                        *lines,
                        f"Put it into {local} and go on with the same command, which "
                        "checks and unpacks what lies there:",
                        f"  {command}",
                    ]
                )
            ) from error


def check_imagenet(local: Path) -> None:
    """Raises a DataError where ImageNet's folders are not as they must be."""
    check_splits(class_splits.imagenet(local))


def make(benchmark: Benchmark, local: Path, out: Path, options: Namespace) -> None:
    """Writes the data set to ``out``, whole or not at all.

    Args:
        benchmark: any but ImageNet, which is used where it lies.
        local: the unpacked archives.
        out: a new folder.
        options: `copy`, `list`, `draw` and `seed` of the command line.

    Raises:
        DataError: something is missing or not as it must be.
    """
    write, number, chosen_by = _planned(benchmark, local, options)
    about = {
        "name": benchmark.name,
        "from": str(local),
        "split": chosen_by,
        "vissl_swav": __version__,
    }
    with new_folder(out) as folder, counting_bars() as progress:
        task = progress.add_task(benchmark.name, total=number)
        write(folder, lambda count: progress.update(task, completed=count))
        (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n")


def _planned(benchmark: Benchmark, local: Path, options: Namespace) -> _Plan:
    """Reads the lists of the data set; nothing is written yet."""
    name = benchmark.name
    if name in ARRAYS:
        # torchvision reads them; its compiled part may not fit this torch.
        compat.apply()
        count = sum(benchmark.num_images.values())
        return (
            lambda folder, done: write_array_images(name, local, folder, done=done),
            count,
            benchmark.split,
        )
    if name in _LISTS:
        listed = _LISTS[name](local)
        return lambda folder, _: write_lists(listed, folder), None, benchmark.split
    splits, chosen_by = _files(benchmark, local, options)
    return (
        lambda folder, done: write_class_folders(
            splits, folder, copy=options.copy, done=done
        ),
        sum(map(len, splits.values())),
        chosen_by,
    )


def _files(benchmark: Benchmark, local: Path, options: Namespace) -> tuple[Splits, str]:
    """The files of each split, and what chose them."""
    percent = PERCENT.get(benchmark.name)
    if percent is None:
        return _FILES[benchmark.name](local), benchmark.split
    if options.draw:
        drawn = class_splits.imagenet_draw(
            class_splits.imagenet(local), percent=percent, seed=options.seed
        )
        return drawn, f"drawn by class, seed {options.seed}; not SimCLR's list"
    archive = benchmark.archives[0]
    listed = Path(options.list).expanduser() if options.list else local / archive.name
    if not listed.is_file():
        raise DataError(
            f"there is no list {listed}. Fetch SimCLR's with --download, or yourself "
            f"with `curl -L -O {archive.url}` and name it with --list; or take an own "
            "draw with --draw."
        )
    splits = class_splits.imagenet_subset(class_splits.imagenet(local), listed)
    return splits, str(listed)
