"""Parts of a transfer table's training images, drawn by class, once for all rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from vissl_swav.data import folders, subsets
from vissl_swav.data.errors import DataError
from vissl_swav.data.new_folder import new_folder
from vissl_swav.suite import table_lists
from vissl_swav.suite.recipe import Subset
from vissl_swav.suite.table_data import DataSet, Split, identity


class TooFewImages(DataError):
    """A class has fewer images than the part takes."""


def identity_of(data: DataSet, subset: Subset | None) -> str:
    """Of the data set or its part; nothing is drawn."""
    if subset is None:
        return data.identity
    return identity(data.identity, _name(data, subset))


def is_too_small(data: DataSet, subset: Subset | None) -> bool:
    """Whether a class has fewer images than the part takes."""
    wanted = 0 if subset is None or subset.per_class is None else subset.per_class
    return data.fewest is not None and data.fewest < wanted


def take_subset(data: DataSet, subset: Subset, folder: Path) -> DataSet:
    """The data set with a part of its training images, made once below `folder`.

    Raises:
        TooFewImages: a class has fewer images than are asked for.
        DataError: the images have several labels each.
    """
    if is_too_small(data, subset):
        raise TooFewImages(
            f"{data.train.images} has classes with fewer than {subset.per_class} "
            f"images ({data.fewest} in the smallest)."
        )
    if data.fewest is None:
        raise DataError(
            f"{data.train.labels} holds several labels an image; a part by class wants "
            "one."
        )
    target = folder / _name(data, subset)
    if not target.exists():
        try:
            with new_folder(target) as scratch:
                _draw(data, subset, scratch)
        except (OSError, DataError):
            # Rows that run at once draw the same: whoever was first is as good.
            if not target.exists():
                raise
    return replace(
        data,
        train=_split(data, target),
        identity=identity_of(data, subset),
        fewest=_count(data.fewest, subset),
    )


def _name(data: DataSet, subset: Subset) -> str:
    amount = f"{subset.per_class}-a-class" if subset.per_class else f"{subset.share:g}"
    return f"{data.name}-{data.identity[:6]}-{amount}-seed{subset.seed}"


def _count(images: int, subset: Subset) -> int:
    """Images of a class of so many."""
    return subset.per_class or max(1, round(images * (subset.share or 0.0)))


def _split(data: DataSet, folder: Path) -> Split:
    if data.train.labels is not None:
        images, labels = folder / "train_images.npy", folder / "train_labels.npy"
        return Split(images, labels, len(table_lists.array(images)))
    count = sum(map(len, folders.list_images(folder).values()))
    return Split(folder, None, count)


def _draw(data: DataSet, subset: Subset, folder: Path) -> None:
    if data.train.labels is not None:
        _draw_lists(data.train.images, data.train.labels, subset, folder)
        return
    subsets.subsample_folder(
        data.train.images,
        folder,
        per_class=subset.per_class,
        share=subset.share,
        seed=subset.seed,
    )


def _draw_lists(images: Path, labels: Path, subset: Subset, folder: Path) -> None:
    listed, marks = table_lists.array(images), np.asarray(table_lists.array(labels))
    generator = np.random.default_rng(subset.seed)
    chosen: list[np.ndarray] = []
    for number in np.unique(marks[marks >= 0]):
        places = np.flatnonzero(marks == number)
        chosen.append(generator.permutation(places)[: _count(len(places), subset)])
    order = np.sort(np.concatenate(chosen))
    np.save(folder / "train_images.npy", np.asarray(listed)[order])
    np.save(folder / "train_labels.npy", marks[order])
