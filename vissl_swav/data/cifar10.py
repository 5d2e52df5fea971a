"""CIFAR-10 as an image folder, fetched through torchvision."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

from vissl_swav.data.errors import DataError
from vissl_swav.data.folders import AnyPath

HOME_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
# In label order, which is the alphabetical one.
CLASSES = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
_SPLITS = ("train", "test")


def fetch_cifar10(folder: AnyPath) -> Path:
    """Download CIFAR-10 (170 MB) and write it as ``train/`` and ``test/`` folders.

    A folder that holds both splits already, made by this function or put there by hand,
    is reused.  The images are moved there in one step, so no half of them ever is.

    Raises:
        DataError: the download failed, and the message says what to do without a
            network; or the folder holds something else.
    """
    target = Path(folder).expanduser()
    if all((target / split).is_dir() for split in _SPLITS):
        return target
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(
            f"{target} exists without train/ and test/; name a new or empty folder."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        images = scratch / "images"
        for split in _SPLITS:
            _write_split(_download(scratch / "download", split, target), images / split)
        if target.exists():
            target.rmdir()
        images.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _download(folder: Path, split: str, target: Path) -> Any:
    # Imported late: torchvision is heavy, and may need mending before its import.
    from torchvision.datasets import CIFAR10

    try:
        return CIFAR10(str(folder), train=split == "train", download=True)
    # RuntimeError: torchvision's own "not found or corrupted".
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"CIFAR-10 could not be downloaded ({type(error).__name__}: {error}). "
            "Without a network: on a machine that has one, get the Python version from "
            f"{HOME_PAGE} (this function writes it out as images), copy it here as "
            f"{target}/train/<class>/*.png and {target}/test/<class>/*.png, and run "
            f"`make quickstart DATA={shlex.quote(str(target))}`. Plain "
            "`make quickstart` needs no download."
        ) from error


def _write_split(dataset: Any, folder: Path) -> None:
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    for index, (image, label) in enumerate(dataset):
        image.save(folder / CLASSES[label] / f"{index:05d}.png")
