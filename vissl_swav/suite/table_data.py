"""The data sets of a transfer table: image folders, or the host's lists of files."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vissl_swav.data import folders
from vissl_swav.data.errors import DataError
from vissl_swav.host.quoting import quoted
from vissl_swav.suite import table_lists
from vissl_swav.suite.recipe import Recipe
from vissl_swav.suite.table_rows import Row, digest_of

_SPLITS = (("train",), ("test", "val"))


@dataclass(frozen=True)
class Split:
    """Training or test images.

    Attributes:
        images: a folder with one folder a class, or a `.npy` list of paths.
        labels: None for folders, else the `.npy` list: (N,), or (N, C) of 1, 0, -1.
        num_images: in it.
    """

    images: Path
    labels: Path | None
    num_images: int


@dataclass(frozen=True)
class DataSet:
    """A data set with labels.

    Attributes:
        name: in the recipe.
        train: training images.
        test: test images.
        num_classes: in both.
        identity: tells it from other data; images that change inside do not change it.
        fewest: training images of the smallest class; None where an image may have
            several labels.
    """

    name: str
    train: Split
    test: Split
    num_classes: int
    identity: str
    fewest: int | None

    def overrides(self, *, test: bool = True) -> list[str]:
        """Where the images are, for the host's command line.

        Args:
            test: of both splits, with labels; else of the training images alone, which
                the run reads in its own way.
        """
        if not test:
            return [f"config.DATA.TRAIN.DATA_PATHS=[{quoted(self.train.images)}]"]
        lines = []
        for name, split in (("TRAIN", self.train), ("TEST", self.test)):
            source = "disk_folder" if split.labels is None else "disk_filelist"
            place = f"config.DATA.{name}"
            lines += [
                f"{place}.DATA_SOURCES=[{source}]",
                f"{place}.LABEL_SOURCES=[{source}]",
                f"{place}.DATA_PATHS=[{quoted(split.images)}]",
                f"{place}.COPY_TO_LOCAL_DISK=false",
            ]
            if split.labels is not None:
                lines.append(f"{place}.LABEL_PATHS=[{quoted(split.labels)}]")
        return lines


def find_data(
    recipe: Recipe, given: Sequence[str], rows: Sequence[Row]
) -> dict[str, DataSet]:
    """The recipe's data sets that there are, by name.

    One that is not given is looked for beside the first checkpoint's own images, where
    the recipe has one data set only.

    Args:
        recipe: which sets it wants.
        given: `NAME=PATH` of the command line; a PATH alone where the recipe has one.
        rows: of the table.

    Raises:
        DataError: a name that the recipe does not have, or data that cannot be used.
    """
    paths = _named(recipe, given)
    if not paths and len(recipe.data) == 1:
        beside = _beside(rows)
        if beside is not None:
            paths = {next(iter(recipe.data)): beside}
    return {name: read(name, path) for name, path in paths.items()}


def _named(recipe: Recipe, given: Sequence[str]) -> dict[str, Path]:
    paths = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            if len(recipe.data) != 1:
                raise DataError(
                    f"--data is {text}; wanted NAME=PATH, since recipe {recipe.name} "
                    f"has the data sets {', '.join(recipe.data)}."
                )
            name, path = next(iter(recipe.data)), text
        if name not in recipe.data:
            raise DataError(
                f"--data names {name}, which recipe {recipe.name} does not have; its "
                f"data sets are {', '.join(recipe.data)}."
            )
        if name in paths:
            raise DataError(f"--data names {name} twice.")
        paths[name] = Path(path).expanduser()
    return paths


def _beside(rows: Sequence[Row]) -> Path | None:
    """The folder above the first run's own images, where it has both splits."""
    for row in rows[:1]:
        for path in row.saved.train_paths[:1] if row.saved else ():
            root = Path(path).parent
            if Path(path).name == "train" and any(
                (root / name).is_dir() for name in ("test", "val")
            ):
                return root
    return None


def read(name: str, path: Path) -> DataSet:
    """A data set at a path: folders, or lists as the host's scripts write them.

    Raises:
        DataError: neither is there, or it cannot be used.
    """
    path = path.resolve() if path.exists() else path
    if (path / "train_images.npy").is_file():
        return _lists(name, path)
    if (path / "ImageSets" / "Main").is_dir():
        raise DataError(
            f"{path} is a VOC tree. Make lists of it first: python -m "
            "extra_scripts.datasets.create_voc_data_files --data_source_dir "
            f"{path} --output_dir LISTS; then --data {name}=LISTS."
        )
    found = folders.find_splits(path)
    train = folders.check_image_folder(found.train, min_images=2)
    test = folders.check_image_folder(found.test, min_images=1)
    folders.check_same_classes(train, test)
    return data_set(name, train, test)


def data_set(
    name: str, train: folders.ImageFolderReport, test: folders.ImageFolderReport
) -> DataSet:
    """Of two folders that have been checked."""
    counts = [train.images_per_class, test.images_per_class]
    return DataSet(
        name,
        Split(train.path, None, train.num_images),
        Split(test.path, None, test.num_images),
        len(train.images_per_class),
        identity(str(train.path), str(test.path), json.dumps(counts, sort_keys=True)),
        min(train.images_per_class.values()),
    )


def _lists(name: str, path: Path) -> DataSet:
    lists = [table_lists.read(path, names) for names in _SPLITS]
    table_lists.check_together(*lists)
    files = [file for one in lists for file in (one.images, one.labels)]
    digest = identity(str(path), *map(digest_of, files))
    splits = [Split(one.images, one.labels, len(one.marks)) for one in lists]
    classes = max(one.num_classes for one in lists)
    return DataSet(name, splits[0], splits[1], classes, digest, lists[0].fewest)


def identity(*parts: str) -> str:
    """A digest that tells data from other data."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
