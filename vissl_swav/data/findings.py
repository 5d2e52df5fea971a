"""One image at a time: what it is, and sums of levels over many.

Images are taken at random from (count, seed) and decoded by a few threads, whose
results come in a fixed order, so that sums are the same on every machine.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from vissl_swav.data.decoding import UnreadableImage
from vissl_swav.data.errors import DataError
from vissl_swav.data.image_list import ImageList

# Colour differences that JPEG makes of a grey image.
GREY_DIFFERENCE = 2
MAX_THREADS = 8

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


class Finding(NamedTuple):
    """What one readable image is."""

    format: str
    mode: str
    size: tuple[int, int]
    is_rotated: bool
    is_grey: bool
    brightest: int
    digest: bytes
    mean: np.ndarray
    mean_square: np.ndarray


@dataclass
class LevelSums:
    """Sums over images of their mean level and mean square, (C,) float64."""

    count: int = 0
    mean: np.ndarray | float = 0.0
    mean_square: np.ndarray | float = 0.0

    def add(self, finding: Finding) -> None:
        """Adds an image."""
        self.count += 1
        self.mean = self.mean + finding.mean
        self.mean_square = self.mean_square + finding.mean_square

    def result(self) -> Statistics | None:
        """Mean and std of each channel over pixels, images alike, in [0, 1]."""
        if not self.count:
            return None
        mean = np.asarray(self.mean) / self.count
        variance = np.asarray(self.mean_square) / self.count - mean**2
        std = np.sqrt(np.maximum(variance, 0.0))
        return tuple((mean / 255).tolist()), tuple((std / 255).tolist())


def sample_indices(count: int, wanted: int | None, seed: int) -> Sequence[int]:
    """``wanted`` of ``count`` numbers by chance, in order; None is all.

    Raises:
        DataError: fewer than one is wanted.
    """
    if wanted is None or wanted >= count:
        return range(count)
    if wanted < 1:
        raise DataError(f"a sample of {wanted} images was asked for; wanted 1 or more.")
    return sorted(random.Random(seed).sample(range(count), wanted))


def findings(
    images: ImageList, chosen: Sequence[int], channels: int
) -> Iterator[tuple[int, Finding | UnreadableImage]]:
    """Each chosen index, in order, with what its image is or why it cannot be read."""
    threads = min(MAX_THREADS, num_cores())
    indices = iter(chosen)
    with ThreadPoolExecutor(threads) as pool:
        # In blocks: a million futures at once would fill the memory.
        while block := list(itertools.islice(indices, 32 * threads)):
            found = pool.map(lambda index: _look_at(images, index, channels), block)
            yield from zip(block, found, strict=True)


def _look_at(images: ImageList, index: int, channels: int) -> Finding | UnreadableImage:
    try:
        image = images.read(index)
        levels = image.decode(channels=channels)
    except UnreadableImage as error:
        # Without what it was raised from, which holds the image.
        return UnreadableImage(error.name, error.reason)
    mean, std = (part.ravel() for part in cv2.meanStdDev(levels))
    return Finding(
        format=image.header.format,
        mode=image.header.mode,
        size=image.size,
        is_rotated=image.header.orientation != 1,
        is_grey=_is_grey(levels),
        brightest=int(levels.max()),
        digest=hashlib.blake2b(image.data, digest_size=16).digest(),
        mean=mean,
        mean_square=std**2 + mean**2,
    )


def _is_grey(levels: np.ndarray) -> bool:
    if levels.shape[2] == 1:
        return True
    # Every fourth pixel shows it, at a sixteenth of the time.
    few = levels[::4, ::4].astype(np.int16)
    return bool((few.max(axis=2) - few.min(axis=2)).max() <= GREY_DIFFERENCE)


def num_cores() -> int:
    """Cores that this process may use, where the system tells (not on macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
