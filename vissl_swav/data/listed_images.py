"""VISSL's lists of images, ``.npy`` files of paths, checked as folders are."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from vissl_swav.data.errors import DataError
from vissl_swav.data.folders import fault_of, some

REMEDY = "Save it with np.save(file, np.array(paths, dtype=str))"


def check_listed_images(
    file: Path,
    listed: np.ndarray,
    *,
    old_prefix: str = "",
    new_prefix: str = "",
    num_decoded: int = 64,
    seed: int = 0,
) -> None:
    """Refuses a list that is none, or whose images a sample cannot read.

    The host puts a grey image in the place of one that it cannot read, and goes on: a
    list of paths that lead nowhere would give figures like any other. Paths with
    ``://`` are the host's to open and are not tried.

    Args:
        file: of the list, for messages.
        listed: what it holds (N,); relative paths are taken from the current folder.
        old_prefix: of the paths, which the host replaces; nothing where it is empty.
        new_prefix: in its place.
        num_decoded: images to decode, chosen at random.
        seed: of that choice.

    Raises:
        DataError: no array of texts, an empty one, or unreadable images, which are
            named.
    """
    # Of bytes the host makes no path: it would take grey images here, too.
    if listed.ndim != 1 or listed.dtype.kind != "U" or not len(listed):
        raise DataError(
            f"{file} holds an array {listed.shape} of {listed.dtype}; wanted one text "
            f"a path, and at least one. {REMEDY}."
        )
    places = random.Random(seed).sample(
        range(len(listed)), min(num_decoded, len(listed))
    )
    paths = [str(listed[place]) for place in places]
    if old_prefix:
        paths = [
            path.replace(old_prefix, new_prefix)
            if path.startswith(old_prefix)
            else path
            for path in paths
        ]
    paths = [path for path in paths if "://" not in path]
    faults = [f"{path} ({fault})" for path in paths if (fault := fault_of(path))]
    if faults:
        raise DataError(
            f"{len(faults)} of {len(paths)} images tried of the list {file} cannot be "
            f"read: {some(faults)}. VISSL would take grey images for them. Mend the "
            "list, or mount the disk they are on; relative paths are taken from the "
            "current folder."
        )
