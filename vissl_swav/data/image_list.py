"""A user's images as one list, whatever they lie in.

=============================== ======================================================
folder with class folders       the order and labels of torchvision's ``ImageFolder``
folder with images directly     all below it in alphabetical order, hidden ones skipped;
inside                          no labels
``.txt``                        a path a line, perhaps a label; ``path_lists``
``.npy``                        an array of paths; ``path_lists``
``.tar``, a folder of such,     webdataset shards; ``tar_shards``
``part-{000..127}.tar``
=============================== ======================================================

Relative paths in a list are taken from the list's own folder.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from vissl_swav.data.decoding import EncodedImage, UnreadableImage
from vissl_swav.data.errors import DataError
from vissl_swav.data.folders import (
    IMAGE_SUFFIXES,
    AnyPath,
    list_images,
    refuse_locked,
    test_split,
)
from vissl_swav.data.packed_strings import PackedStrings
from vissl_swav.data.path_lists import PathList, read_array_list, read_text_list
from vissl_swav.data.tar_shards import (
    ShardStore,
    refuse_compressed,
)

_SUPPORTED = (
    "Wanted a folder of images, with class folders or without; a .txt or .npy list of "
    "paths; a .tar, a folder of .tar shards, or shards-{000..010}.tar"
)
_BRACES = re.compile(r"\{([^{}]*)\}")


class ImageStore(Protocol):
    """Where the bytes of numbered images lie."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What messages call the image."""
        ...

    def read(self, index: int) -> bytes:
        """The image's file; OSError where there is none."""
        ...


class ImageList:
    """Numbered images with a name each, and perhaps labels; picklable.

    Args:
        store: where the bytes lie.
        labels: (N,) whole numbers, or None.
        class_names: by label, where they are known.
    """

    def __init__(
        self,
        store: ImageStore,
        *,
        labels: Sequence[int] | np.ndarray | None = None,
        class_names: Sequence[str] | None = None,
    ):
        self._store = store
        self._labels = None if labels is None else np.asarray(labels, np.int64)
        self.class_names = None if class_names is None else list(class_names)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._store)

    @property
    def labels(self) -> list[int] | None:
        """A label for each image, or None where the data has none."""
        return None if self._labels is None else self._labels.tolist()

    def name(self, index: int) -> str:
        """What messages call the image: its path, or shard and member."""
        return self._store.name(index)

    def read(self, index: int) -> EncodedImage:
        """The image's bytes and name.

        Raises:
            UnreadableImage: the file cannot be opened or read.
            IndexError: there is no such image.
        """
        try:
            return EncodedImage(self._store.read(index), self.name(index))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UnreadableImage(self.name(index), reason) from error


class FileStore:
    """Images that are files.

    Args:
        root: folder that relative names are below.
        names: paths of the files.
    """

    def __init__(self, root: str, names: Sequence[str]):
        self._root = root
        self._names = PackedStrings(names)

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """The file's path."""
        return os.path.join(self._root, self._names[index])

    def read(self, index: int) -> bytes:
        """The file's bytes."""
        with open(self.name(index), "rb", buffering=0) as file:
            return file.read()


def open_images(path: AnyPath) -> ImageList:
    """Opens a folder, a list or tar shards.

    Only names are read, not images; ``check.check_images`` decodes.

    Raises:
        DataError: nothing there, nothing of a kind that is known, or no image in it.
    """
    try:
        return _open(path)
    except OSError as error:
        refuse_locked(error)
        raise


def _open(path: AnyPath) -> ImageList:
    text = os.path.abspath(os.path.expanduser(os.fspath(path)))
    if os.path.isdir(text):
        return _open_folder(Path(text))
    refuse_compressed(text)
    kind = os.path.splitext(text)[1].lower()
    if os.path.isfile(text):
        if kind == ".txt":
            return _open_list(Path(text), read_text_list(Path(text)))
        if kind == ".npy":
            return _open_list(Path(text), read_array_list(Path(text)))
        if kind == ".tar":
            return _open_shards([text])
        hint = "It is one image. " if kind in IMAGE_SUFFIXES else ""
        raise DataError(f"{text} is a {kind or 'nameless'} file. {hint}{_SUPPORTED}.")
    if kind == ".tar" and _BRACES.search(text):
        return _open_shards(list(expand_braces(text)))
    remote = "://" in os.fspath(path) or os.fspath(path).startswith("pipe:")
    remedy = (
        "Only local data is read: copy or mount it"
        if remote
        else "Check the path for a typing error, or mount the disk it is on"
    )
    raise DataError(f"there is no {path if remote else text}. {remedy}. {_SUPPORTED}.")


def split_folders(path: AnyPath) -> dict[str, Path]:
    """``train`` and, where there is one, ``test`` or else ``val``: name to folder.

    Empty where the folder is not made of splits: without ``train/``, or with a
    ``train/`` that stands among other classes.
    """
    folder = Path(path).expanduser()
    if not (folder / "train").is_dir():
        return {}
    test = test_split(folder)
    others = [
        entry
        for entry in os.scandir(folder)
        if entry.is_dir() and entry.name != "train" and not entry.name.startswith(".")
    ]
    if others and test is None:
        return {}
    found = {"train": folder / "train"}
    return found if test is None else {**found, test.name: test}


def expand_braces(pattern: str) -> Iterator[str]:
    """The names that ``{000..127}`` and ``{a,b}`` stand for, in order.

    Raises:
        DataError: braces that are neither.
    """
    literals = _BRACES.split(pattern)[::2]
    choices = [_choices(inner, pattern) for inner in _BRACES.findall(pattern)]
    for chosen in itertools.product(*choices):
        parts = itertools.zip_longest(literals, chosen, fillvalue="")
        yield "".join(itertools.chain.from_iterable(parts))


def _choices(inner: str, pattern: str) -> list[str]:
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", inner)
    if ends is None:
        if "," in inner:
            return inner.split(",")
        raise DataError(f"{{{inner}}} in {pattern} is no range; wanted {{000..127}}.")
    first, last = int(ends[1]), int(ends[2])
    if last < first:
        raise DataError(f"{{{inner}}} in {pattern} runs backwards; swap its ends.")
    padded = len(ends[1]) if ends[1].startswith("0") else 0
    return [f"{number:0{padded}d}" for number in range(first, last + 1)]


def _open_shards(shards: list[str]) -> ImageList:
    store = ShardStore(shards)
    return ImageList(store, labels=store.labels)


def _open_list(file: Path, found: PathList) -> ImageList:
    return ImageList(FileStore(str(file.parent), found.paths), labels=found.labels)


def _open_folder(folder: Path) -> ImageList:
    splits = split_folders(folder)
    if splits:
        raise DataError(
            f"{folder} holds splits; name one of them: "
            f"{' or '.join(map(str, splits.values()))}."
        )
    visible = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    if any(entry.is_file() and _is_image(entry.name) for entry in visible):
        return ImageList(FileStore(str(folder), sorted(_images_below(str(folder)))))
    if next(_images_below(str(folder)), None) is not None:
        return _open_class_folders(folder)
    tars = sorted(entry.path for entry in visible if entry.name.endswith(".tar"))
    if tars:
        return _open_shards(tars)
    for entry in visible:
        refuse_compressed(entry.path)
    raise DataError(f"{folder} holds no image{_what_else(folder)}. {_SUPPORTED}.")


def _open_class_folders(folder: Path) -> ImageList:
    images = list_images(folder)
    start = len(os.path.join(folder, ""))
    # ImageFolder goes folder by folder: `a/z.png` stands before `a/b/c.png`.
    names = [
        name[start:]
        for files in images.values()
        for name in sorted(map(str, files), key=os.path.split)
    ]
    counts = [len(files) for files in images.values()]
    labels = np.repeat(np.arange(len(counts)), counts)
    return ImageList(
        FileStore(str(folder), names), labels=labels, class_names=list(images)
    )


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _images_below(folder: str) -> Iterator[str]:
    """Paths from the folder on; hidden files and folders are left out."""
    start = len(os.path.join(folder, ""))
    walk = os.walk(folder, followlinks=True, onerror=refuse_locked)
    for place, folders, names in walk:
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if _is_image(name) and not name.startswith("."):
                yield os.path.join(place, name)[start:]


def _what_else(folder: Path) -> str:
    """What lies there instead of images, by the ends of the names."""
    seen: Counter[str] = Counter()
    for _, _, names in os.walk(folder):
        seen.update(os.path.splitext(name)[1].lower() or "no suffix" for name in names)
        if seen.total() > 1000:
            break
    if not seen:
        return "; it is empty"
    kinds = ", ".join(f"{kind} ({n})" for kind, n in seen.most_common(5))
    return f" ({' '.join(sorted(IMAGE_SUFFIXES))}), but {kinds}"
