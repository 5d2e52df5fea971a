"""`vissl-swav data-check PATH`: looks through a user's images before a run does."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vissl_swav.data.check import DataReport, Spread, check_images
from vissl_swav.data.errors import DataError
from vissl_swav.data.folders import ImageFolderReport, check_same_classes
from vissl_swav.data.image_list import open_images, split_folders
from vissl_swav.data.shard_sample import sample_shards
from vissl_swav.suite.terminal import counting_bars, say

MAX_CLASSES = 12
MAX_FILES = 20


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns 0, 1 for unreadable images, 2 for bad input."""
    try:
        reports = run(options)
        _check_agreement(reports)
    except DataError as error:
        say(f"vissl-swav data-check: {error}", "red")
        return 2
    return 1 if any(report.unreadable for report in reports.values()) else 0


def run(options: argparse.Namespace) -> dict[Path, DataReport]:
    """Checks and prints every split: path to report.

    Args:
        options: `path`, `all`, `sample`, `shards`, `channels` and `seed` of the command
            line.

    Raises:
        DataError: the data cannot be opened.
    """
    if getattr(options, "shards", None) is not None:
        return _run_on_shards(options)
    splits = split_folders(options.path)
    paths = list(splits.values()) or [Path(options.path)]
    reports: dict[Path, DataReport] = {}
    for path in paths:
        with counting_bars() as progress:
            task = progress.add_task(_shortened(path), total=None)
            reports[path] = check_images(
                open_images(path),
                channels=options.channels,
                num_decoded=None if options.all else options.sample,
                seed=options.seed,
                report=lambda done, total, task=task, progress=progress: (
                    progress.update(task, completed=done, total=total)
                ),
            )
        _show(path, reports[path])
    return reports


def _run_on_shards(options: argparse.Namespace) -> dict[Path, DataReport]:
    """The same of a few shards: the first images of each."""
    if options.shards < 1 or options.all:
        raise DataError(
            f"--shards {options.shards}{' --all' * options.all}: wanted a number of "
            "shards from 1 on, and --sample N for the images; without --shards every "
            "header is scanned."
        )
    found = sample_shards(
        options.path,
        num_shards=options.shards,
        num_images=options.sample,
        seed=options.seed,
    )
    about = "no image" if found.about is None else f"about {found.about} images in all"
    report = check_images(
        found.images,
        channels=options.channels,
        num_decoded=options.sample,
        seed=options.seed,
    )
    path = Path(options.path)
    _show(path, report)
    console = Console(file=sys.stdout)
    _print(
        console,
        f"{found.num_shards} shards of {found.num_bytes} bytes: {about} "
        f"(config.DATA.TRAIN.STREAM.NUM_IMAGES), by {len(found.images)} images of "
        f"{found.looked_at} shards",
        "bold",
    )
    for shard, reason in found.broken[:MAX_FILES]:
        _print(console, f"unreadable: {shard}: {reason}", "red")
    unreadable = [*report.unreadable, *found.broken]
    return {path: replace(report, unreadable=unreadable)}


def _check_agreement(reports: dict[Path, DataReport]) -> None:
    """Splits with labels must have the same classes.

    Raises:
        DataError: names the classes of one split only.
    """
    labelled = [
        ImageFolderReport(
            path=path,
            images_per_class=report.images_per_class,
            num_decoded=report.num_decoded,
        )
        for path, report in reports.items()
        if report.images_per_class is not None
    ]
    if len(labelled) == 2:
        check_same_classes(*labelled)


def _show(path: Path, report: DataReport) -> None:
    console = Console(file=sys.stdout)
    # Not the table's title, which would be wrapped: a path must come through whole.
    _print(console, str(path), "bold")
    table = Table(box=box.SIMPLE, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, text in _rows(report):
        table.add_row(name, Text(text))
    console.print(table)
    for warning in report.warnings:
        _print(console, f"warning: {warning}", "yellow")
    for name, reason in report.unreadable[:MAX_FILES]:
        _print(console, f"unreadable: {name}: {reason}", "red")
    _print_rest(console, len(report.unreadable), "unreadable")
    for names in report.duplicates[:MAX_FILES]:
        _print(console, f"same file: {' = '.join(names)}", "yellow")
    _print_rest(console, len(report.duplicates), "same file")


def _rows(report: DataReport) -> list[tuple[str, str]]:
    rows = [
        ("images", str(report.count)),
        ("tried", str(report.num_decoded)),
        ("unreadable", str(len(report.unreadable))),
        ("width", _spread(report.widths)),
        ("height", _spread(report.heights)),
        ("formats", _counts(report.formats)),
        ("modes", _counts(report.modes)),
        ("turned by EXIF", str(report.num_rotated)),
        ("exact copies", str(sum(len(names) - 1 for names in report.duplicates))),
        ("classes", _classes(report.images_per_class)),
    ]
    if report.mean is not None and report.std is not None:
        rows += [("mean", _values(report.mean)), ("std", _values(report.std))]
    return rows


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    return f"{spread.smallest} to {spread.largest}, median {spread.median:g}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "-"


def _classes(per_class: dict[str, int] | None) -> str:
    if per_class is None:
        return "no labels"
    counts = sorted(per_class.values())
    head = f"{len(per_class)}, of {counts[0]} to {counts[-1]} images"
    if len(per_class) > MAX_CLASSES:
        return head
    return f"{head}: {_counts(per_class)}"


def _values(values: tuple[float, ...]) -> str:
    # As a config takes it.
    return "[" + ", ".join(f"{value:.4f}" for value in values) + "]"


def _shortened(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 40 else f"...{text[-37:]}"


def _print(console: Console, text: str, style: str) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _print_rest(console: Console, count: int, what: str) -> None:
    if count > MAX_FILES:
        _print(console, f"{what}: and {count - MAX_FILES} more", "default")
