"""Files of classes as an image folder, by links: ``<split>/<class>/<image>``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vissl_swav.data.errors import DataError

MAX_NAMED = 3

Done = Callable[[int], None]


class ClassFile(NamedTuple):
    """An image file and the folder that it goes into."""

    class_name: str
    file: Path


Splits = dict[str, list[ClassFile]]


def write_class_folders(
    splits: Splits, folder: Path, *, copy: bool = False, done: Done | None = None
) -> None:
    """Hard links to the files, which need no room and outlive their other names.

    Where the file system has none, or the file lies on another one, a symbolic link
    takes their place.  The bytes are the user's own in every case.

    Args:
        splits: split to its files.
        folder: where to write; what is named like a link there stands in the way.
        copy: write copies instead.
        done: called with the number of files written, one after the other.

    Raises:
        DataError: files are missing, two of a class have the same name, or the splits
            have not the same classes.
    """
    check_splits(splits)
    count = 0
    for split, files in splits.items():
        for class_name in {file.class_name for file in files}:
            (folder / split / class_name).mkdir(parents=True)
        for class_name, file in files:
            _put(file, folder / split / class_name / file.name, copy)
            count += 1
            if done is not None:
                done(count)


def check_splits(splits: Splits) -> None:
    """Raises a DataError for what ``write_class_folders`` refuses."""
    for split, files in splits.items():
        refuse_missing([file.file for file in files], f"the {split} split")
        seen: dict[tuple[str, str], Path] = {}
        for class_name, file in files:
            check_class_name(class_name, file)
            other = seen.setdefault((class_name, file.name), file)
            if other is not file:
                raise DataError(
                    f"{file} is named twice in the {split} split, or {other} has the "
                    "same name and class. Get the lists of the data set anew."
                )
    classes = {
        split: {file.class_name for file in files} for split, files in splits.items()
    }
    everywhere = set.intersection(*classes.values())
    for split, names in classes.items():
        if lone := sorted(names - everywhere):
            others = " and ".join(other for other in splits if other != split)
            raise DataError(
                f"{_some(lone)} is a class in {split} but not in {others}, which would "
                "shift the labels of all that follow. Is a part of the data missing?"
            )


def check_class_name(name: str, source: Path) -> str:
    """The name; it makes one folder, here.

    Raises:
        DataError: it is empty, a path, or the folder above.
    """
    if name in ("", ".", "..") or os.path.basename(name) != name:
        raise DataError(
            f"{name!r}, out of {source}, is no name of a class. Get the file anew."
        )
    return name


def refuse_missing(files: list[Path], what: str) -> None:
    """Looks every file up, a folder at a time.

    Raises:
        DataError: files that are not there, or no file at all; names some.
    """
    if not files:
        raise DataError(f"{what} has no image. Is its list empty?")
    names: dict[Path, frozenset[str]] = {}
    missing = []
    for file in files:
        if file.parent not in names:
            names[file.parent] = _names_in(file.parent)
        if file.name not in names[file.parent]:
            missing.append(str(file))
    if missing:
        raise DataError(
            f"{len(missing)} of {len(files)} images of {what} are missing: "
            f"{_some(missing)}. Unpack the archive again; its images and its lists "
            "belong together."
        )


def _names_in(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()


def _put(source: Path, target: Path, copy: bool) -> None:
    # A hard link to a symbolic link would be one more symbolic link.
    whole = os.path.realpath(source)
    if copy:
        shutil.copyfile(whole, target)
        return
    try:
        os.link(whole, target)
    except OSError:
        target.symlink_to(whole)


def _some(names: list[str]) -> str:
    more = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
