"""A user's folder of images: find its splits and check it before a run starts."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from vissl_swav.data.errors import DataError

# What torchvision's ImageFolder, and with it the host's `disk_folder`, takes up.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
)
LAYOUT = "wanted <folder>/train/<class>/<image> and <folder>/test/<class>/<image>"
MAX_NAMED = 5

AnyPath = str | os.PathLike[str]


class Splits(NamedTuple):
    """The two halves of a data set."""

    train: Path
    test: Path


@dataclass(frozen=True, kw_only=True)
class ImageFolderReport:
    """What ``check_image_folder`` found.

    Attributes:
        path: the folder with one folder a class.
        images_per_class: class name to number of images, in label order.
        num_decoded: images that were opened and decoded for the check.
    """

    path: Path
    images_per_class: dict[str, int]
    num_decoded: int

    @property
    def num_images(self) -> int:
        """Images over all classes."""
        return sum(self.images_per_class.values())


def find_splits(path: AnyPath) -> Splits:
    """Find ``train/`` and ``test/`` (or, where there is none, ``val/``) in a folder.

    A ``test/`` without class folders stands back behind a ``val/`` with them.

    Raises:
        DataError: the folder or one of its splits is missing.
    """
    folder = _existing_folder(path)
    train, test = folder / "train", test_split(folder)
    if train.is_dir() and test is not None:
        return Splits(train, test)
    missing = [] if train.is_dir() else ["train/"]
    missing += ["test/ or val/"] if test is None else []
    found = sorted(entry.name for entry in folder.iterdir())
    raise DataError(
        f"{folder} has no {' and no '.join(missing)}; it holds {some(found)}. "
        f"{LAYOUT} (val instead of test is fine)."
    )


def test_split(folder: Path) -> Path | None:
    """``test/`` or ``val/``, the first with class folders; None without either.

    ImageNet's own test images have no labels: its ``val/`` is the one with classes.
    """
    there = [folder / name for name in ("test", "val") if (folder / name).is_dir()]
    labelled = [split for split in there if any(e.is_dir() for e in split.iterdir())]
    return next(iter(labelled or there), None)


def check_image_folder(
    path: AnyPath, *, min_images: int, num_decoded: int = 64, seed: int = 0
) -> ImageFolderReport:
    """Check one split: class folders, enough images, and a sample that decodes.

    Args:
        path: the split, with one folder a class.
        min_images: fewest images a run can do with: the batch over all processes.
        num_decoded: images to decode for the check, chosen at random.
        seed: of that choice.

    Raises:
        DataError: missing or empty folder, no class folders, a class without images,
            fewer images than ``min_images``, or unreadable images, which are named.
    """
    folder = _existing_folder(path)
    images = list_images(folder)
    per_class = {name: len(files) for name, files in images.items()}
    total = sum(per_class.values())
    if total < min_images:
        raise DataError(
            f"{folder} holds {total} images, fewer than one batch of {min_images}. Add "
            "images, or train with a smaller batch."
        )
    everything = [file for files in images.values() for file in files]
    sample = random.Random(seed).sample(everything, min(num_decoded, total))
    _refuse_unreadable(folder, sample)
    return ImageFolderReport(
        path=folder, images_per_class=per_class, num_decoded=len(sample)
    )


def check_same_classes(train: ImageFolderReport, test: ImageFolderReport) -> None:
    """Check that both splits hold the same classes.

    A label is the class's place among the names of its own split, so one class too many
    shifts the labels of all that follow.

    Raises:
        DataError: names the classes that only one split has.
    """
    sides = ((train, test), (test, train))
    lone = [
        f"only {a.path} has {some(names)}"
        for a, b in sides
        if (names := sorted(a.images_per_class.keys() - b.images_per_class.keys()))
    ]
    if lone:
        raise DataError(
            f"training and test classes differ: {'; '.join(lone)}. Give both the same "
            "class folders, spelt alike."
        )


def list_images(path: AnyPath) -> dict[str, list[Path]]:
    """Class name to its image files, both in alphabetical order, as ImageFolder does.

    Raises:
        DataError: missing or empty folder, no class folders, or an empty class.
    """
    folder = _existing_folder(path)
    entries = sorted(folder.iterdir())
    if not entries:
        raise DataError(f"{folder} is empty; {LAYOUT}.")
    classes = [entry for entry in entries if entry.is_dir()]
    if not classes:
        found = some([entry.name for entry in entries])
        raise DataError(
            f"{folder} has no class folders; it holds {found}. {LAYOUT}: put the "
            "images into one folder a class (one is enough for pretraining)."
        )
    images = {entry.name: _images_below(entry) for entry in classes}
    empty = [name for name, files in images.items() if not files]
    if empty:
        suffixes = " ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(
            f"{folder} has class folders without an image: {some(empty)}. Remove them "
            f"or fill them with images ({suffixes})."
        )
    return images


def _images_below(folder: Path) -> list[Path]:
    # os.walk follows links here, as ImageFolder does; Path.rglob does not.
    # Folder by folder, each in alphabetical order: ImageFolder's order too.
    return [
        Path(place) / name
        for place, _, names in sorted(
            os.walk(folder, followlinks=True, onerror=refuse_locked)
        )
        for name in sorted(names)
        if Path(name).suffix.lower() in IMAGE_SUFFIXES
    ]


def refuse_locked(error: OSError) -> None:
    """For what `os.walk` and others cannot open, which they would pass over.

    Raises:
        DataError: always; names the folder or file.
    """
    raise DataError(
        f"{error.filename} cannot be read: {error.strerror}. Change its permissions, "
        "or name another folder."
    ) from error


def _existing_folder(path: AnyPath) -> Path:
    folder = Path(path).expanduser()
    if not folder.exists():
        raise DataError(
            f"there is no folder {folder}. Check the path for a typing error, or mount "
            "the disk it is on."
        )
    if not folder.is_dir():
        raise DataError(f"{folder} is a file; wanted a folder of images. {LAYOUT}.")
    return folder


def _refuse_unreadable(folder: Path, sample: list[Path]) -> None:
    faults = {file: fault for file in sample if (fault := fault_of(file))}
    if faults:
        named = [f"{file.relative_to(folder)} ({why})" for file, why in faults.items()]
        raise DataError(
            f"{len(faults)} of {len(sample)} images tried in {folder} cannot be read: "
            f"{some(named)}. Remove or replace them."
        )


def fault_of(file: AnyPath) -> str | None:
    """Why the file cannot be decoded as an image, or None."""
    try:
        with Image.open(file) as image:
            image.load()
    except FileNotFoundError:
        return "no such file"
    # Pillow's decoders raise all of these on broken files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"{type(error).__name__}: {str(error).split(' <')[0]}"[:80]
    return None


def some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    named = ", ".join(names[:MAX_NAMED])
    more = len(names) - MAX_NAMED
    return (named or "nothing") + (f" and {more} more" if more > 0 else "")
