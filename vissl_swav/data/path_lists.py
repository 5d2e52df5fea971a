"""Lists of image paths: a text file, with or without labels, or a numpy array."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vissl_swav.data.errors import DataError

TEXT_FORM = "wanted one path a line, or path, space or tab, and a whole number as label"
# Names that are looked up when a list is opened: all would take minutes on a slow disk.
MAX_LOOKED_UP = 64
MAX_DIGITS = 18  # Of a label.
_LABELLED = re.compile(r"^(?P<path>.*\S)\s+(?P<label>[+-]?\d+)$")


class PathList(NamedTuple):
    """What a list holds.

    Attributes:
        paths: as they stand there; relative ones belong below the list's folder.
        labels: a number for each path, or None.
    """

    paths: Sequence[str]
    labels: list[int] | None


def read_text_list(file: Path) -> PathList:
    """Reads a text list; blank lines and those that begin with # are skipped.

    Raises:
        DataError: no path in it, labels on some lines only, negative labels, or paths
            that lead nowhere.
    """
    # Names without valid UTF-8 pass through; an editor's byte order mark does not.
    text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    numbered = [
        (number, line)
        for number, line in enumerate(map(str.strip, text.split("\n")), 1)
        if line and not line.startswith("#")
    ]
    if not numbered:
        raise DataError(f"{file} holds no path; {TEXT_FORM}.")
    matches = [_LABELLED.match(line) for _, line in numbered]
    if matches[0] is not None and _exists(file, numbered[0][1]):
        # "holiday 12" is a file: the number is a part of its name.
        matches = [None] * len(numbered)
    if all(match is None for match in matches):
        paths = PathList([line for _, line in numbered], None)
    else:
        paths = _labelled(file, numbered, matches)
    _look_up(file, paths.paths)
    return paths


def read_array_list(file: Path) -> PathList:
    """Reads a ``.npy`` file with one string a path, as VISSL's ``disk_filelist`` does.

    Raises:
        DataError: no array of strings, or paths that lead nowhere.
    """
    remedy = "Save it with np.save(file, np.array(paths, dtype=str))"
    try:
        # Pickled objects could run any code.
        array = np.load(file, allow_pickle=False)
    # Of a broken header numpy's reader raises whatever parsing it as Python leads to,
    # of one that lies MemoryError.
    except Exception as error:
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{file} cannot be read as an array: {text}. {remedy}.") from (
            error
        )
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{file} is an archive, not one array. {remedy}.")
    if array.ndim != 1 or array.dtype.kind not in "US" or not len(array):
        raise DataError(
            f"{file} holds an array {array.shape} of {array.dtype}; wanted one string "
            f"a path. {remedy}."
        )
    paths = [os.fsdecode(path) for path in array.tolist()]
    _look_up(file, paths)
    return PathList(paths, None)


def _labelled(
    file: Path,
    numbered: Sequence[tuple[int, str]],
    matches: Sequence[re.Match[str] | None],
) -> PathList:
    paths, labels = [], []
    for (number, line), match in zip(numbered, matches, strict=True):
        if match is None:
            have = sum(other is not None for other in matches)
            raise DataError(
                f"line {number} of {file} has no label ({line}), but {have} of "
                f"{len(matches)} lines have one. Give every line a label, or none."
            )
        text = match["label"]
        # int64 holds no more; Python itself refuses 4300 digits.
        label = int(text) if len(text) <= MAX_DIGITS else -1
        if label < 0:
            raise DataError(
                f"line {number} of {file} has the label {text[:30]}; labels count from "
                f"0 and have {MAX_DIGITS} digits at most."
            )
        paths.append(match["path"])
        labels.append(label)
    return PathList(paths, labels)


def _look_up(file: Path, paths: Sequence[str]) -> None:
    """A sample of the paths, first and last among them, must exist."""
    places = np.linspace(0, len(paths) - 1, min(len(paths), MAX_LOOKED_UP)).astype(int)
    looked_up = [paths[int(place)] for place in places]
    missing = [path for path in looked_up if not _exists(file, path)]
    if not missing:
        return
    first = missing[0]
    remedy = "Check the paths, or mount the disk they are on"
    if os.path.exists(first):
        remedy = f"Relative paths are taken from the list's folder, {file.parent}"
    elif ("," in first and _exists(file, first.partition(",")[0])) or first.startswith(
        ("'", '"', "[", "{")
    ):
        remedy = f"Is it a CSV or JSON file? {TEXT_FORM.capitalize()}"
    raise DataError(
        f"{first}, named in {file}, does not exist ({len(missing)} of {len(places)} "
        f"paths looked up are missing). {remedy}."
    )


def _exists(file: Path, path: str) -> bool:
    try:
        return os.path.exists(os.path.join(file.parent, path))
    except ValueError:  # A NUL byte.
        return False
