"""CIFAR and STL-10, which come as arrays, as PNG files of an image folder.

torchvision's classes read them.  CIFAR's files are pickles, which can run any code: it
checks their MD5 sums first.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from vissl_swav.data.class_folders import check_class_name
from vissl_swav.data.errors import DataError
from vissl_swav.data.folders import list_images


class _Kind(NamedTuple):
    """A data set of torchvision's: its class, its folder, and its splits."""

    class_name: str
    folder: str
    splits: dict[str, dict[str, Any]]


_BY_TRAIN = {"train": {"train": True}, "test": {"train": False}}
_BY_SPLIT = {"train": {"split": "train"}, "test": {"split": "test"}}
_KINDS = {
    "cifar10": _Kind("CIFAR10", "cifar-10-batches-py", _BY_TRAIN),
    "cifar100": _Kind("CIFAR100", "cifar-100-python", _BY_TRAIN),
    "stl10": _Kind("STL10", "stl10_binary", _BY_SPLIT),
}


def write_array_images(
    name: str, local: Path, folder: Path, *, done: Callable[[int], None] | None = None
) -> None:
    """``<split>/<class>/<place in the split>.png``, pixel for pixel.

    Args:
        name: cifar10, cifar100 or stl10.
        local: the folder in which the archive is unpacked, or the unpacked folder.
        folder: where to write.
        done: called with the number of images written, one after the other.

    Raises:
        DataError: the files are not there, or not the published ones.
    """
    kind = _KINDS[name]
    root = local.parent if local.name == kind.folder else local
    count = 0
    for split, options in kind.splits.items():
        images = _opened(kind, root, options)
        source = root / kind.folder
        classes = [check_class_name(name, source) for name in images.classes]
        for class_name in classes:
            (folder / split / class_name).mkdir(parents=True)
        for index, (image, label) in enumerate(images):
            place = folder / split / classes[label] / f"{index:05d}.png"
            image.save(place)
            count += 1
            if done is not None:
                done(count)
        # A class without an image would shift the labels of all that follow.
        list_images(folder / split)


def _opened(kind: _Kind, root: Path, options: dict[str, Any]) -> Any:
    if not (root / kind.folder).is_dir():
        raise DataError(
            f"there is no {kind.folder} in {root}. Name the folder in which the "
            "archive is unpacked."
        )
    # Imported late: torchvision is heavy, and may need mending before its import.
    import torchvision.datasets

    try:
        images = getattr(torchvision.datasets, kind.class_name)(str(root), **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"{root / kind.folder} is not whole (torchvision: {error}). Its files must "
            "have the published MD5 sums; unpack the archive anew."
        ) from error
    if not getattr(images, "classes", None):
        raise DataError(
            f"{root / kind.folder} has no class_names.txt; unpack the archive anew."
        )
    return images
