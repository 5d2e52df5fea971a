"""A folder per cluster: a labelled image folder out of clusters.

`FOLDER/0007/000012_cat.jpg` links to image 12 of cluster 7; with several heads one such
folder a head below `FOLDER/head0/`. Empty clusters have no folder: torchvision's
`ImageFolder`, and with it VISSL's `disk_folder`, refuses a class without images. What
lies in tar shards is copied, since a link cannot point into a tar.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from vissl_swav.data.errors import DataError
from vissl_swav.data.folders import IMAGE_SUFFIXES
from vissl_swav.data.image_list import ImageList

_SUFFIX_OF = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "PPM": ".ppm"}
_LONGEST_NAME = 120


def check_free(folder: Path, images: Path) -> Path:
    """The folder, absolute; it is new or empty, and not among the images.

    Raises:
        DataError: it is in the way, or in the images' own folder.
    """
    target = Path(os.path.abspath(folder.expanduser()))
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise DataError(f"{target} is there and is no folder; name another.")
    if target.is_dir() and any(target.iterdir()):
        raise DataError(
            f"{target} is not empty; name a new folder, so that no link of another "
            "assignment stays in it."
        )
    source = images.expanduser()
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise DataError(
            f"{target} lies in {images}, so the next run would find the links among "
            "the images; name a folder elsewhere."
        )
    return target


def link_clusters(
    folder: Path,
    images: ImageList,
    indices: Tensor,
    heads: Sequence[Tensor],
    num_prototypes: Sequence[int],
) -> list[Path]:
    """Makes the folders, whole or not at all; returns the image folder of each head.

    Args:
        folder: from `check_free`.
        images: the list that was assigned.
        indices: (N,) numbers of the images.
        heads: (N,) cluster of each, for each head.
        num_prototypes: K of each head.
    """
    scratch = folder.with_name(f".{folder.name}-unfinished-{os.getpid()}")
    roots = (
        [Path(f"head{n}") for n in range(len(heads))] if len(heads) > 1 else [Path()]
    )
    try:
        for root, cluster, count in zip(roots, heads, num_prototypes, strict=True):
            digits = len(str(count - 1))
            for index, number in zip(indices.tolist(), cluster.tolist(), strict=True):
                place = scratch / root / f"{number:0{digits}d}"
                place.mkdir(parents=True, exist_ok=True)
                _put(place, images, index)
        if folder.is_dir():
            folder.rmdir()
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    return [folder / root for root in roots]


def _put(place: Path, images: ImageList, index: int) -> None:
    source = images.name(index)
    link = place / f"{index:07d}_{_plain_name(images, index)}"
    if os.path.isfile(source):
        link.symlink_to(os.path.abspath(source))
    else:
        link.write_bytes(images.read(index).data)


def _plain_name(images: ImageList, index: int) -> str:
    """The file's own name, with an ending by which an image folder takes it up."""
    name = os.path.basename(images.name(index))[-_LONGEST_NAME:]
    if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
        return name
    kind = images.read(index).header.format
    return name + _SUFFIX_OF.get(kind, f".{kind.lower()}")
