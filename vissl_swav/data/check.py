"""What is in a data set: sizes, kinds, classes, statistics, files that cannot be read.

The report follows from (data, seed) alone; ``findings`` looks at the single images.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vissl_swav.data.decoding import UnreadableImage
from vissl_swav.data.errors import DataError
from vissl_swav.data.findings import (
    Finding,
    LevelSums,
    Statistics,
    findings,
    sample_indices,
)
from vissl_swav.data.image_list import ImageList

SMALL_SIDE = 32
LARGE_PIXELS = 2_000_000
LARGEST_SHARE = 0.9
# Levels below it: 12-bit values or fewer, stored in 16 bits.
DARK_LEVEL = 16

Report = Callable[[int, int], None]


class Spread(NamedTuple):
    """Smallest, median and largest of some sizes, in pixels."""

    smallest: int
    median: float
    largest: int


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """What ``check_images`` found.

    Attributes:
        count: images in all.
        num_decoded: images that were tried: decoded, or found unreadable.
        widths: of the upright images that could be read; None if there were none.
        heights: as ``widths``.
        modes: Pillow's name of the pixel type to number of images.
        formats: Pillow's name of the file format to number of images.
        num_rotated: images that their EXIF data turns or mirrors.
        unreadable: (name, reason) of each image that could not be read.
        images_per_class: class name, or label as text, to images in all; None without
            labels.
        mean: of each channel, in [0, 1]; None if no image could be read.
        std: as ``mean``.
        duplicates: names of files with the same bytes, a tuple each set.
        warnings: what may be wrong with the data, in sentences.
    """

    count: int
    num_decoded: int
    widths: Spread | None
    heights: Spread | None
    modes: dict[str, int]
    formats: dict[str, int]
    num_rotated: int
    unreadable: list[tuple[str, str]]
    images_per_class: dict[str, int] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    duplicates: list[tuple[str, ...]]
    warnings: list[str]


def check_images(
    images: ImageList,
    *,
    channels: int = 3,
    num_decoded: int | None = 1000,
    seed: int = 0,
    report: Report | None = None,
) -> DataReport:
    """Decodes a sample of the images and counts what they are.

    Args:
        images: the data set.
        channels: 3, or 1 for mean and std of the luma.
        num_decoded: images to decode, chosen at random; None is all.
        seed: of that choice.
        report: called with (images done, images to do) as it goes on.
    """
    chosen = sample_indices(len(images), num_decoded, seed)
    tally = _Tally()
    for done, (index, finding) in enumerate(findings(images, chosen, channels), 1):
        tally.add(images.name(index), finding)
        if report is not None:
            report(done, len(chosen))
    per_class = count_classes(images)
    mean, std = tally.levels.result() or (None, None)
    return DataReport(
        count=len(images),
        num_decoded=len(chosen),
        widths=_spread(tally.widths),
        heights=_spread(tally.heights),
        modes=dict(tally.modes.most_common()),
        formats=dict(tally.formats.most_common()),
        num_rotated=tally.num_rotated,
        unreadable=tally.unreadable,
        images_per_class=per_class,
        mean=mean,
        std=std,
        duplicates=tally.duplicates(),
        warnings=list(_warnings(tally, per_class, channels)),
    )


def channel_statistics(
    images: ImageList, *, channels: int = 3, num_images: int = 2000, seed: int = 0
) -> Statistics:
    """Mean and standard deviation of each channel over pixels, in [0, 1].

    Every image counts alike, large or small.  The numbers follow from data and seed.

    Args:
        images: the data set.
        channels: 3 for RGB, 1 for luma.
        num_images: images to decode, chosen at random; those that cannot be read are
            left out.
        seed: of that choice.

    Raises:
        DataError: none of them can be read.
    """
    levels, last = LevelSums(), None
    chosen = sample_indices(len(images), num_images, seed)
    for _, finding in findings(images, chosen, channels):
        if isinstance(finding, UnreadableImage):
            last = finding
        else:
            levels.add(finding)
    found = levels.result()
    if found is None:
        raise DataError(
            f"none of {len(chosen)} images can be read, so there is no mean and no "
            f"standard deviation; the last one: {last}"
        )
    return found


def count_classes(images: ImageList) -> dict[str, int] | None:
    """Class name, or the label as text, to its number of images; None without labels.

    Every image counts, not a sample.
    """
    labels = images.labels
    if labels is None:
        return None
    counts, names = Counter(labels), images.class_names
    return {
        str(label) if names is None else names[label]: counts[label]
        for label in sorted(counts)
    }


@dataclass
class _Tally:
    """Counts over the images read so far."""

    levels: LevelSums = field(default_factory=LevelSums)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    modes: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    num_rotated: int = 0
    num_grey: int = 0
    dark: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    names: dict[bytes, list[str]] = field(default_factory=dict)

    def add(self, name: str, finding: Finding | UnreadableImage) -> None:
        if isinstance(finding, UnreadableImage):
            self.unreadable.append((name, finding.reason))
            return
        self.levels.add(finding)
        self.widths.append(finding.size[0])
        self.heights.append(finding.size[1])
        self.modes[finding.mode] += 1
        self.formats[finding.format] += 1
        self.num_rotated += finding.is_rotated
        self.num_grey += finding.is_grey
        if finding.mode.startswith("I") and finding.brightest < DARK_LEVEL:
            self.dark.append(name)
        self.names.setdefault(finding.digest, []).append(name)

    def duplicates(self) -> list[tuple[str, ...]]:
        return [tuple(names) for names in self.names.values() if len(names) > 1]


def _spread(sizes: Sequence[int]) -> Spread | None:
    if not sizes:
        return None
    return Spread(min(sizes), float(statistics.median(sizes)), max(sizes))


def _warnings(
    tally: _Tally, per_class: dict[str, int] | None, channels: int
) -> Iterator[str]:
    decoded = tally.levels.count
    sides = list(map(min, tally.widths, tally.heights))
    if small := sum(side < SMALL_SIDE for side in sides):
        yield (
            f"{small} of {decoded} images have a side below {SMALL_SIDE} pixels: crops "
            "will be blown up from very little."
        )
    pixels = [w * h for w, h in zip(tally.widths, tally.heights, strict=True)]
    if pixels and statistics.median(pixels) > LARGE_PIXELS:
        yield (
            f"half of the images have over {LARGE_PIXELS / 1e6:.0f} million pixels: "
            "training will wait for their decoding. Train on copies with a shorter "
            "side of 512 pixels, say."
        )
    if decoded and channels == 3 and tally.num_grey == decoded:
        yield "every image is grey: one channel is enough (channels 1)."
    if tally.dark:
        yield (
            f"{len(tally.dark)} images of 16 bits use less than a sixteenth of their "
            f"range and come out nearly black ({tally.dark[0]}, say): stretch them."
        )
    if copies := sum(len(names) - 1 for names in tally.duplicates()):
        yield f"{copies} of {decoded} files are exact copies of others."
    total = sum((per_class or {}).values())
    for name, count in (per_class or {}).items():
        if len(per_class or {}) > 1 and count > LARGEST_SHARE * total:
            yield f"class {name} holds {count} of {total} images."
