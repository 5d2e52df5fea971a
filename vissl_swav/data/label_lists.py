"""Benchmark data sets as VISSL's lists: ``<split>_images.npy``, ``<split>_labels.npy``.

The readers of those that come with lists of their own: Places205 and iNaturalist 2018.
The images stay where they are, so their folder must stay too.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vissl_swav.data.class_folders import refuse_missing
from vissl_swav.data.class_splits import locate
from vissl_swav.data.errors import DataError
from vissl_swav.data.image_list import FileStore, ImageList

_PLACES_LINE = re.compile(r"(?P<name>\S.*?)[\s,]+(?P<label>\d+)")
_PLACES_LISTS = ("trainvalsplit_places205", "trainvalsplit/trainvalsplit_places205")
_PLACES_IMAGES = ("data/vision/torralba/deeplearning/images256", "images256")


class Listed(NamedTuple):
    """One split.

    Attributes:
        paths: of the images, absolute.
        labels: (N,) classes from 0; or (N, C), 1 for a class that is there, 0 for one
            that is not, -1 for one to be ignored.
    """

    paths: list[str]
    labels: np.ndarray


def write_lists(splits: dict[str, Listed], folder: Path) -> None:
    """Writes both files of each split.

    Raises:
        DataError: images are missing, or the labels have gaps.
    """
    for split, listed in splits.items():
        refuse_missing([Path(path) for path in listed.paths], f"the {split} split")
    _refuse_gaps(splits)
    for split, listed in splits.items():
        # Of type <U, which VISSL's `disk_filelist` reads, memory-mapped too.
        np.save(folder / f"{split}_images.npy", np.array(listed.paths))
        np.save(folder / f"{split}_labels.npy", listed.labels)


def read_lists(folder: Path, split: str) -> tuple[ImageList, np.ndarray]:
    """The images and the labels that ``write_lists`` wrote; images without labels."""
    paths = np.load(folder / f"{split}_images.npy", allow_pickle=False)
    labels = np.load(folder / f"{split}_labels.npy", allow_pickle=False)
    return ImageList(FileStore(str(folder), paths.tolist())), labels


def places205(local: Path) -> dict[str, Listed]:
    """Places205: each line of the official lists is a file name and its class."""
    lists = locate(local, ("train_places205.csv", "val_places205.csv"), _PLACES_LISTS)
    root = next((local / p for p in _PLACES_IMAGES if (local / p).is_dir()), local)
    return {
        split: _places_list(lists / f"{split}_places205.csv", root)
        for split in ("train", "val")
    }


def inaturalist18(local: Path) -> dict[str, Listed]:
    """The 2018 iNaturalist set: COCO's form; the class is ``category_id``."""
    marks = ("train2018.json", "val2018.json", "train_val2018")
    root = locate(local, marks, ("inaturalist2018",))
    return {
        split: _inat_list(root / f"{split}2018.json", root)
        for split in ("train", "val")
    }


def _places_list(file: Path, root: Path) -> Listed:
    paths, labels = [], []
    for number, line in enumerate(_text(file).splitlines(), 1):
        if not line.strip():
            continue
        match = _PLACES_LINE.fullmatch(line.strip())
        if match is None:
            raise DataError(
                f"line {number} of {file} is {line[:80]!r}; wanted a/abbey/name.jpg, a "
                "space, and the number of the class."
            )
        paths.append(_below(root, match["name"], file))
        labels.append(int(match["label"]))
    return Listed(paths, np.array(labels, np.int64))


def _inat_list(file: Path, root: Path) -> Listed:
    try:
        found: Any = json.loads(_text(file))
        classes = {one["image_id"]: one["category_id"] for one in found["annotations"]}
        names = [(one["id"], one["file_name"]) for one in found["images"]]
        labels = np.array([classes[image] for image, _ in names], np.int64)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{file} is not what iNaturalist 2018 has ({type(error).__name__}: "
            f"{error}); wanted JSON with images (id, file_name) and annotations "
            "(image_id, category_id)."
        ) from error
    for (_, name), label in zip(names, labels.tolist(), strict=True):
        parts = str(name).split("/")
        # VISSL's script takes the label from here: both must say the same.
        if len(parts) != 4 or parts[2] != str(label):
            raise DataError(
                f"{file} has the image {name} with category {label}; wanted "
                f"train_val2018/<group>/{label}/<name>. Is it the 2018 set?"
            )
    return Listed([_below(root, str(name), file) for _, name in names], labels)


def _refuse_gaps(splits: dict[str, Listed]) -> None:
    """Every class must have training images, and there must be no other in the rest."""
    known: set[int] | None = None
    for split, listed in splits.items():
        if listed.labels.ndim == 2:
            continue
        classes = set(np.unique(listed.labels).tolist())
        if known is None:
            known = classes
            if gaps := set(range(max(classes) + 1)) - classes:
                raise DataError(
                    f"no image of the {split} split has the class {min(gaps)}, but "
                    f"there are classes up to {max(classes)}. Is the list whole?"
                )
        elif new := classes - known:
            raise DataError(
                f"class {min(new)} has images in the {split} split and none to train "
                "on. Do the lists belong together?"
            )


def _below(root: Path, name: str, file: Path) -> str:
    """The absolute path of a name in a list; it may not lead out of the folder."""
    path = os.path.normpath(name.lstrip("/"))
    if path.startswith(os.pardir):
        raise DataError(f"{file} has the image {name}, which lies outside of {root}.")
    return os.path.join(os.path.abspath(root), path)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as text: {error}.") from error
