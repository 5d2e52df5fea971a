"""`data=PATH` on the command line, in place of the host's four keys a split."""

import os
from collections.abc import Sequence

from vissl_swav.data.errors import DataError
from vissl_swav.data.image_list import open_images, split_folders
from vissl_swav.host.errors import StartError
from vissl_swav.host.quoting import quoted
from vissl_swav.host.settings import SOURCE_NAME, STREAM_NAME

KEY = "data"


def without_data(overrides: Sequence[str]) -> list[str]:
    """The overrides that are hydra's own: all but `data=PATH`."""
    return [o for o in overrides if not o.startswith(f"{KEY}=")]


def expand_data_override(
    overrides: Sequence[str],
    *,
    labelled: bool,
    test: bool,
    streams: bool = False,
) -> list[str]:
    """Replaces `data=PATH` by overrides of the host's keys; the rest stays as it is.

    PATH is taken as it stands, whatever characters it has. Where it holds `train/`,
    that is the training data, and `test/` or else `val/` the test data. The new
    overrides come first, so one of the user's for the same key holds.

    Args:
        overrides: of the command line.
        labelled: whether the run needs labels.
        test: whether the run has test phases.
        streams: whether the training images are shards to be streamed.

    Returns:
        The overrides for hydra; equal to the given ones without `data=`.

    Raises:
        StartError: `data=` twice, empty, or a path without images; no labels where they
            are needed; or nothing to test on where the run tests.
    """
    given = [o for o in overrides if o.startswith(f"{KEY}=")]
    others = without_data(overrides)
    if not given:
        return others
    if len(given) > 1:
        raise StartError(
            f"{' and '.join(given)} were given; wanted {KEY}= once. Several data sets "
            f"go into a text list of paths, one image a line: {KEY}=LIST.txt."
        )
    text = given[0].partition("=")[2]
    if not text.strip():
        raise StartError(f"{KEY}= is empty; wanted {KEY}=PATH, of images.")
    if streams:
        return [*_of_stream(text), *others]
    try:
        paths = _paths_of_splits(text, test=test and not _has_test_data(others))
        expanded = [
            override
            for split, path in paths.items()
            for override in _of_split(split, path, labelled)
        ]
    except DataError as error:
        raise StartError(f"{KEY}={text}: {error}") from error
    return [*expanded, *others]


def _paths_of_splits(text: str, *, test: bool) -> dict[str, str]:
    """The host's name of each split to its absolute path."""
    path = os.path.abspath(os.path.expanduser(text))
    folders = split_folders(path)
    paths = {"TRAIN": str(folders.pop("train", path))}
    if test and not folders:
        raise DataError(
            "this run tests too, and there is no test/ or val/ beside a train/. Make "
            "these folders, or name the test images with "
            "config.DATA.TEST.DATA_SOURCES, DATASET_NAMES and DATA_PATHS."
        )
    for folder in folders.values() if test else ():
        paths["TEST"] = str(folder)
    return paths


def _of_split(split: str, path: str, labelled: bool) -> list[str]:
    section = f"config.DATA.{split}"
    overrides = [
        f"{section}.DATA_SOURCES=[{SOURCE_NAME}]",
        f"{section}.DATASET_NAMES=[{SOURCE_NAME}]",
        f"{section}.DATA_PATHS=[{quoted(path)}]",
    ]
    if not labelled:
        # What is in it, `data_checks` says; a wrong path is told in the words of the
        # command line.
        if not os.path.exists(path) and "{" not in path:
            open_images(path)
        return overrides
    if open_images(path).labels is None:
        raise DataError(
            f"this run needs labels, and the images in {path} have none; wanted class "
            "folders without images beside them, a text list with a label a line, or "
            "shards with .cls members."
        )
    # The host's word for "ask the source".
    return [*overrides, f"{section}.LABEL_SOURCES=[torchvision_dataset]"]


def _of_stream(text: str) -> list[str]:
    """Nothing is opened here: `data_checks` looks into the shards."""
    path = os.path.abspath(os.path.expanduser(text))
    return [
        f"config.DATA.TRAIN.DATASET_NAMES=[{STREAM_NAME}]",
        f"config.DATA.TRAIN.DATA_PATHS=[{quoted(path)}]",
    ]


def _has_test_data(overrides: Sequence[str]) -> bool:
    keys = (o.partition("=")[0].lstrip("+") for o in overrides)
    return "config.DATA.TEST.DATA_PATHS" in keys
