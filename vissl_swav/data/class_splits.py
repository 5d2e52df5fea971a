"""Readers of the benchmark data sets that are image files of classes.

Each takes the folder of the unpacked archives, as their authors or torchvision lay them
out, and gives the files of each split.  torchvision's classes would decode the images;
these leave the files as they are.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

from vissl_swav.data.class_folders import ClassFile, Splits
from vissl_swav.data.errors import DataError
from vissl_swav.data.folders import list_images

# As VISSL's own script splits EuroSAT.
EUROSAT_TRAIN, EUROSAT_VAL = 1000, 500
_IMAGENET_NAME = re.compile(r"(?P<wnid>n\d{8})_\d+\.JPEG")


def locate(local: Path, marks: tuple[str, ...], places: tuple[str, ...]) -> Path:
    """The folder that holds all of ``marks``: ``local``, or a place in it.

    Raises:
        DataError: none does; names what was looked for and what is there.
    """
    for place in ("", *places):
        if all((local / place / mark).exists() for mark in marks):
            return local / place
    found = sorted(entry.name for entry in local.iterdir()) if local.is_dir() else []
    inner = f", nor its {' or '.join(places)}" if places else ""
    raise DataError(
        f"{local} does not hold {' and '.join(marks)}{inner}; there is "
        f"{', '.join(found[:5]) or 'nothing'}{' ...' if len(found) > 5 else ''}. Name "
        "the folder in which the archives are unpacked."
    )


def food101(local: Path) -> Splits:
    """Food-101: ``meta/train.txt`` and ``meta/test.txt`` name ``class/number``."""
    root = locate(local, ("meta/train.txt", "meta/test.txt", "images"), ("food-101",))
    return {
        split: [
            ClassFile(name.partition("/")[0], root / "images" / f"{name}.jpg")
            for name in _class_names(root / "meta" / f"{split}.txt")
        ]
        for split in ("train", "test")
    }


def pets(local: Path) -> Splits:
    """Oxford-IIIT Pet: the first word of each line is ``Breed_name_number``."""
    marks = ("annotations/trainval.txt", "annotations/test.txt", "images")
    root = locate(local, marks, ("oxford-iiit-pet",))
    return {
        split: [
            ClassFile(name.rpartition("_")[0], root / "images" / f"{name}.jpg")
            for name in _first_words(root / "annotations" / list_name)
        ]
        for split, list_name in (("train", "trainval.txt"), ("test", "test.txt"))
    }


def dtd(local: Path) -> Splits:
    """DTD, partition 1: training and validation images together, and test."""
    marks = ("labels/train1.txt", "labels/val1.txt", "labels/test1.txt", "images")
    root = locate(local, marks, ("dtd", "dtd/dtd"))
    lists = {"train": ("train1.txt", "val1.txt"), "test": ("test1.txt",)}
    return {
        split: [
            ClassFile(name.partition("/")[0], root / "images" / name)
            for list_name in names
            for name in _class_names(root / "labels" / list_name)
        ]
        for split, names in lists.items()
    }


def flowers102(local: Path) -> Splits:
    """Oxford 102 Flowers: training and validation images together, and test.

    Classes have no names in the archive; ``001`` to ``102`` are their numbers, padded
    so that the alphabetical order is the authors'.
    """
    root = locate(local, ("setid.mat", "imagelabels.mat", "jpg"), ("flowers-102",))
    labels = _mat_row(root / "imagelabels.mat", "labels")
    numbers = {
        key: _mat_row(root / "setid.mat", key) for key in ("trnid", "valid", "tstid")
    }
    parts = {"train": ("trnid", "valid"), "test": ("tstid",)}
    if beyond := [n for ids in numbers.values() for n in ids if n > len(labels)]:
        raise DataError(
            f"{root / 'setid.mat'} names image {beyond[0]}, but imagelabels.mat has "
            f"{len(labels)} labels. Get both files anew."
        )
    return {
        split: [
            ClassFile(f"{labels[n - 1]:03d}", root / "jpg" / f"image_{n:05d}.jpg")
            for key in keys
            for n in numbers[key]
        ]
        for split, keys in parts.items()
    }


def eurosat(
    local: Path, *, train: int = EUROSAT_TRAIN, val: int = EUROSAT_VAL
) -> Splits:
    """EuroSAT by VISSL's split: of each class the first files by name, then the next.

    Args:
        local: holds ``2750``, with a folder a class.
        train: files of each class for training.
        val: files of each class after those.
    """
    root = locate(local, ("2750",), ("eurosat", "EuroSAT")) / "2750"
    splits: Splits = {"train": [], "val": []}
    for name, files in list_images(root).items():
        if len(files) < train + val:
            raise DataError(
                f"class {name} in {root} has {len(files)} images; the split takes the "
                f"first {train} for training and the next {val}. Is it all unpacked?"
            )
        splits["train"] += [ClassFile(name, file) for file in files[:train]]
        splits["val"] += [ClassFile(name, file) for file in files[train : train + val]]
    return splits


def imagenet(local: Path) -> Splits:
    """ImageNet as it lies: every image of ``train/`` and ``val/``.

    Raises:
        DataError: no such folders, or validation images without class folders.
    """
    # Not `find_splits`: ImageNet's own `test/` has no labels.
    root = locate(local, ("train", "val"), ())
    flat = next((root / "val").glob("ILSVRC2012_val_*.JPEG"), None)
    if flat is not None:
        raise DataError(
            f"{flat} lies in no class folder. The official archive of validation "
            "images has none: move each image into val/<wnid>/, as the labels of the "
            "development kit say (torchvision.datasets.ImageNet does it)."
        )
    return {
        split: [
            ClassFile(name, file)
            for name, files in list_images(root / split).items()
            for file in files
        ]
        for split in ("train", "val")
    }


def imagenet_subset(splits: Splits, listed: Path) -> Splits:
    """ImageNet with the training images that a list of SimCLR's form names.

    Args:
        splits: of ``imagenet``.
        listed: a file name a line, such as ``n01440764_10026.JPEG``.
    """
    names = _lines(listed)
    matches = [_IMAGENET_NAME.fullmatch(name) for name in names]
    if wrong := [name for name, match in zip(names, matches, strict=True) if not match]:
        raise DataError(
            f"{listed} has the line {wrong[0][:80]!r}; wanted a file name of "
            "ImageNet's training images, n01440764_10026.JPEG say, a line."
        )
    if len(set(names)) != len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise DataError(f"{listed} names {twice} twice. Get the list anew.")
    there = {file.file.name: file for file in splits["train"]}
    if missing := [name for name in names if name not in there]:
        raise DataError(
            f"{len(missing)} of {len(names)} images that {listed} names are not among "
            f"ImageNet's training images: {missing[0]}. Is all of train/ there?"
        )
    return {**splits, "train": [there[name] for name in sorted(names)]}


def imagenet_draw(splits: Splits, *, percent: int, seed: int) -> Splits:
    """ImageNet with an own draw of training images; SimCLR's lists are others.

    Of each class ``percent`` % of its images, rounded, and one at least; what is drawn
    follows from the seed, the class name and the file names.
    """
    by_class: dict[str, list[ClassFile]] = {}
    for file in splits["train"]:
        by_class.setdefault(file.class_name, []).append(file)
    drawn = []
    for name, files in by_class.items():
        count = max(1, round(len(files) * percent / 100))
        drawn += sorted(random.Random(f"{seed}/{name}").sample(files, count))
    return {**splits, "train": drawn}


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as text: {error}.") from error
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line]


def _class_names(file: Path) -> list[str]:
    """Lines ``class/name``, two plain names."""
    names = _lines(file)
    for name in names:
        parts = name.split("/")
        if len(parts) != 2 or any(part in ("", ".", "..") for part in parts):
            raise DataError(f"{file} has the line {name[:80]!r}; wanted class/name.")
    return names


def _first_words(file: Path) -> list[str]:
    """The first word of each line, ``Breed_name_12``; comments are skipped."""
    names = [line.split()[0] for line in _lines(file) if not line.startswith("#")]
    for name in names:
        if re.fullmatch(r"[^/\\]+_\d+", name) is None:
            raise DataError(
                f"{file} has the image {name[:80]!r}; wanted Breed_name_12, say."
            )
    return names


def _mat_row(file: Path, key: str) -> list[int]:
    """A row of whole numbers out of a MATLAB file."""
    # Imported late: scipy is slow to import.
    from scipy.io import loadmat

    try:
        values: Any = loadmat(str(file))[key]
        return [int(value) for value in values.ravel()]
    # Of a broken file scipy raises whatever its bytes lead to.
    except Exception as error:
        raise DataError(
            f"{file} cannot be read as a MATLAB file with {key!r} in it "
            f"({type(error).__name__}: {error}). Get it anew."
        ) from error
