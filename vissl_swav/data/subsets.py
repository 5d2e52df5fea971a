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
    per_class: int,
    seed: int,
    allow_fewer: bool = False,
) -> Path:
    """Link ``per_class`` randomly chosen images of each class into a new folder.

    The choice in one class depends on the seed, the class name and the file names only.
    Symbolic links where the file system has them, else hard links.

    Args:
        source: a split, with one folder a class.
        destination: the folder to make; it must be new or empty.
        per_class: images of each class.
        seed: of the choice.
        allow_fewer: whether a class with fewer images gives all it has.

    Raises:
        DataError: a class has too few images, unless ``allow_fewer``; or the
            destination holds something.
    """
    target = Path(destination)
    if per_class < 1:
        raise DataError(f"per_class is {per_class}; wanted at least 1.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target} exists and is not empty; name another folder.")
    images = list_images(source)
    short = [f"{name} {len(f)}" for name, f in images.items() if len(f) < per_class]
    if short and not allow_fewer:
        raise DataError(
            f"{source} has classes with fewer than {per_class} images: "
            f"{', '.join(short)}. Ask for fewer."
        )
    for name, files in images.items():
        count = min(per_class, len(files))
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
