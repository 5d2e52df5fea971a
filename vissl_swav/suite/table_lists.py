"""The host's lists as data of a transfer table: `<split>_{images,labels}.npy`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vissl_swav.data.errors import DataError
from vissl_swav.data.listed_images import check_listed_images

_ONE_A_CLASS = "1 for a class that is there, 0 for one that is not, -1 to be ignored"
_MAX_NAMED = 5


@dataclass(frozen=True)
class Lists:
    """The lists of a split.

    Attributes:
        images: the file with the paths.
        labels: the file with the labels.
        marks: the labels: (N,) classes from 0, -1 for none; or (N, C) of 1, 0, -1.
    """

    images: Path
    labels: Path
    marks: np.ndarray

    @property
    def num_classes(self) -> int:
        """C, or the largest class and one."""
        if self.marks.ndim == 2:
            return self.marks.shape[1]
        return int(self.marks.max()) + 1

    @property
    def fewest(self) -> int | None:
        """Images of the smallest class; None with several labels an image."""
        if self.marks.ndim == 2:
            return None
        return int(np.unique(self.marks[self.marks >= 0], return_counts=True)[1].min())


def read(folder: Path, names: Sequence[str]) -> Lists:
    """The lists of the first of these splits that is there.

    Raises:
        DataError: there is none, or its images or labels cannot be used.
    """
    stem = next((s for s in names if (folder / f"{s}_images.npy").is_file()), None)
    if stem is None:
        wanted = " or ".join(f"{name}_images.npy" for name in names)
        raise DataError(f"{folder} has train_images.npy but no {wanted}.")
    images, labels = folder / f"{stem}_images.npy", folder / f"{stem}_labels.npy"
    if not labels.is_file():
        raise DataError(f"{folder} has {images.name} but no {labels.name}.")
    listed, marks = array(images), array(labels)
    _check_labels(labels, marks)
    if listed.ndim != 1 or len(listed) != len(marks):
        raise DataError(
            f"{images} has the shape {listed.shape} and {labels.name} {marks.shape}; "
            "wanted as many of both."
        )
    check_listed_images(images, listed)
    return Lists(images, labels, marks)


def array(file: Path) -> np.ndarray:
    """A list, left in its file until its rows are asked for.

    Raises:
        DataError: it is no NumPy array.
    """
    try:
        return np.load(file, allow_pickle=False, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise DataError(
            f"{file} cannot be read as a NumPy array ({error}); wanted the lists that "
            "the host's extra_scripts/datasets write."
        ) from error


def check_together(train: Lists, test: Lists) -> None:
    """Both splits must know the same classes.

    Raises:
        DataError: labels of two kinds, or test labels that no training image has.
    """
    if train.marks.shape[1:] != test.marks.shape[1:]:
        raise DataError(
            f"{train.labels} has the shape {train.marks.shape} and {test.labels.name} "
            f"{test.marks.shape}; wanted one label an image in both, or a column a "
            "class in both, as many in each."
        )
    if train.marks.ndim == 1:
        unknown = np.setdiff1d(test.marks[test.marks >= 0], train.marks)
        if len(unknown):
            raise DataError(
                f"{test.labels} has labels that no training image has: "
                f"{_some(unknown)}. Do the lists belong together?"
            )


def _check_labels(file: Path, marks: np.ndarray) -> None:
    if marks.dtype.kind not in "iu" or marks.ndim not in (1, 2) or not marks.size:
        raise DataError(
            f"{file} holds an array {marks.shape} of {marks.dtype}; wanted whole "
            f"numbers: a class from 0 for each image, or (N, C) with {_ONE_A_CLASS}."
        )
    values = np.unique(marks)
    if marks.ndim == 1:
        if values[0] < -1:
            raise DataError(
                f"{file} holds the label {values[0]}; classes count from 0, and -1 is "
                "no label."
            )
        if values[-1] < 0:
            raise DataError(f"{file} holds no label: all are -1.")
    elif not set(values.tolist()) <= {-1, 0, 1}:
        raise DataError(
            f"{file} has {marks.shape[1]} columns with the values {_some(values)}; "
            f"wanted {_ONE_A_CLASS}."
        )
    elif values[-1] != 1:
        raise DataError(f"{file} holds no label: no image has a class.")


def _some(values: np.ndarray) -> str:
    more = len(values) - _MAX_NAMED
    named = ", ".join(map(str, values[:_MAX_NAMED].tolist()))
    return named + (f" and {more} more" if more > 0 else "")
