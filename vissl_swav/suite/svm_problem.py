"""What SVMs are trained and tested on: rows, labels, classes, and what is refused.

Symbols: N training images, M test images, D dimension, C classes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vissl_swav.data.errors import DataError
from vissl_swav.suite.features import FeatureSet
from vissl_swav.suite.svm_classifier import NEGATIVE, POSITIVE, Solver, prepared


@dataclass(frozen=True)
class Problem:
    """Rows (N, D) and labels to train on and to test on; numbers of the classes.

    Labels are (N, C) with 1, 0 and -1, or (N,), all of them classes.
    """

    rows: np.ndarray
    labels: np.ndarray
    test_rows: np.ndarray
    test_labels: np.ndarray
    classes: list[int]


def problem_of(
    train: FeatureSet, test: FeatureSet, classes: Sequence[int] | None, solver: Solver
) -> Problem:
    """The rows as the solver wants them; training images without a label left out.

    Raises:
        DataError: labels that do not fit, or an unknown class.
    """
    multi_label = check_labels(train, test)
    labels, test_labels = train.labels.numpy(), test.labels.numpy()
    numbers = classes_of(labels, classes)
    kept = slice(None) if multi_label else np.isin(labels, numbers)
    if classes and not multi_label:
        test_labels = np.where(np.isin(test_labels, numbers), test_labels, -1)
    return Problem(
        prepared(features_of(train)[kept], solver),
        labels[kept],
        prepared(features_of(test), solver),
        test_labels,
        numbers,
    )


def signs_of(problem: Problem, number: int) -> np.ndarray:
    """(N,): 1 for the images of a class, -1 for the others."""
    labels = problem.labels
    positive = labels == number if labels.ndim == 1 else labels[:, number] == 1
    return np.where(positive, POSITIVE, NEGATIVE)


def check_positives(problem: Problem, least: int) -> None:
    """Refuses a class with fewer images than `least`, or with fewer other images.

    Raises:
        DataError: it names the class.
    """
    for number in problem.classes:
        positives = int((signs_of(problem, number) == POSITIVE).sum())
        fewer = min(positives, len(problem.labels) - positives)
        if fewer < least:
            raise DataError(
                f"class {number} has {positives} of {len(problem.labels)} "
                f"training images; wanted at least {least} with and {least} without "
                f"it{', one a fold: take fewer folds' if least > 1 else ''}."
            )


def classes_of(labels: np.ndarray, wanted: Sequence[int] | None) -> list[int]:
    """Numbers of the classes that are wanted, all of the labels' by default.

    Raises:
        DataError: the labels do not know one that is wanted.
    """
    multi_label = labels.ndim == 2
    there = range(labels.shape[1]) if multi_label else np.unique(labels[labels >= 0])
    known = [int(number) for number in there]
    if not wanted:
        return known
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise DataError(
            f"class {unknown[0]} is asked for, which no label names; there are "
            f"{known[0]} to {known[-1]}."
        )
    return [int(number) for number in wanted]


def check_labels(train: FeatureSet, test: FeatureSet) -> bool:
    """Whether several classes an image are labelled.

    Raises:
        DataError: labels of two kinds, of other images, or no test image to count.
    """
    for images in (train, test):
        if len(images.labels) != images.features.shape[0] or images.labels.ndim > 2:
            raise DataError(
                f"labels have shape {tuple(images.labels.shape)} for "
                f"{images.features.shape[0]} images; wanted (N,) or (N, C)."
            )
    shapes = [tuple(images.labels.shape[1:]) for images in (train, test)]
    if shapes[0] != shapes[1] or train.features.shape[1] != test.features.shape[1]:
        raise DataError(
            f"training features and labels are {tuple(train.features.shape)} and "
            f"{tuple(train.labels.shape)}, those of the test "
            f"{tuple(test.features.shape)} and {tuple(test.labels.shape)}; wanted the "
            "same dimension and classes."
        )
    multi_label = bool(shapes[0])
    counted = test.labels == 1 if multi_label else test.labels >= 0
    if not bool(counted.any()):
        raise DataError("no test image has a label.")
    if multi_label and not set(train.labels.unique().tolist()) <= {-1, 0, 1}:
        raise DataError(
            f"labels are {train.labels.unique().tolist()[:9]}; wanted 1 for a class "
            "that is present, 0 for one that is not, -1 to be ignored."
        )
    return multi_label


def features_of(images: FeatureSet) -> np.ndarray:
    """The rows (N, D) as an array; rows in files are read.

    Raises:
        DataError: a value that is not finite.
    """
    rows = images.features[:].numpy(force=True)
    if not np.isfinite(rows).all():
        raise DataError("a feature is not finite (NaN or infinity).")
    return rows


def most_jobs(train: FeatureSet) -> int:
    """Processes that cores allow, and half of the memory, with 40 N D bytes each."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    each = 40 * train.features.shape[0] * train.features.shape[1]
    return max(1, min(count, int(memory / 2 / max(1, each))))
