"""A part of an image folder with so many images of each class, made of links."""

from __future__ import annotations

import os
import random
from pathlib import Path

from vissl_swav.data.errors import DataError
from vissl_swav.data.folders import AnyPath, list_images


def subsample_folder(
    source: AnyPath,
    destination: AnyPath,
    *,
    per_class: int | None = None,
    share: float | None = None,
    seed: int,
    allow_fewer: bool = False,
) -> Path:
    """Link randomly chosen images of each class into a new folder.

    The choice in one class depends on the seed, the class name and the file names only.
    Symbolic links where the file system has them, else hard links.

    Args:
        source: a split, with one folder a class.
        destination: the folder to make; it must be new or empty.
        per_class: images of each class.
        share: in place of `per_class`, the share of each class's images, in (0, 1];
            rounded, and at least one image.
        seed: of the choice.
        allow_fewer: whether a class with fewer images gives all it has.

    Raises:
        DataError: a class has too few images, unless ``allow_fewer``; or the
            destination holds something.
    """
    target = Path(destination)
    if (per_class is None) == (share is None):
        raise DataError("wanted per_class or share, and one of them only.")
    if per_class is not None and per_class < 1:
        raise DataError(f"per_class is {per_class}; wanted at least 1.")
    if share is not None and not 0.0 < share <= 1.0:
        raise DataError(f"share is {share}; wanted a number in (0, 1].")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target} exists and is not empty; name another folder.")
    images = list_images(source)
    wanted = {
        name: per_class or max(1, round(len(files) * (share or 0.0)))
        for name, files in images.items()
    }
    short = [f"{name} {len(f)}" for name, f in images.items() if len(f) < wanted[name]]
    if short and not allow_fewer:
        raise DataError(
            f"{source} has classes with fewer than {per_class} images: "
            f"{', '.join(short)}. Ask for fewer."
        )
    for name, files in images.items():
        count = min(wanted[name], len(files))
        chosen = random.Random(f"{seed}/{name}").sample(files, count)
        (target / name).mkdir(parents=True)
        for file in sorted(chosen):
            # Images in folders below a class folder may share a name.
            below = file.relative_to(Path(source).expanduser() / name)
            _link(file, target / name / "__".join(below.parts))
    return target


def _link(file: Path, link: Path) -> None:
    whole = file.resolve()
    try:
        link.symlink_to(whole)
    except OSError:
        os.link(whole, link)
