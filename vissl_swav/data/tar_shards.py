"""Images in uncompressed tar files, as webdataset lays them out, by random access.

A sample is what shares a key, the member's path up to the first dot of its file name:
``a/17.jpg`` and its label ``a/17.cls`` (a whole number as text).  One scan of the
headers gives shard, offset and size of every image; reading one is a single ``pread``.
"""

from __future__ import annotations

import functools
import logging
import os
import posixpath
import tarfile
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vissl_swav.data.errors import DataError
from vissl_swav.data.folders import IMAGE_SUFFIXES
from vissl_swav.data.packed_strings import PackedStrings, checked_index
from vissl_swav.data.path_lists import MAX_DIGITS

COMPRESSED_SUFFIXES = (".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tar.zst")
SLOW_SECONDS = 2.0
# Below the usual limit of 1024 a process, sockets and the rest included.
MAX_OPEN_FILES = 256
_LOG = logging.getLogger(__name__)


class ShardStore:
    """Every image member of some tar files; pickles as arrays, without open files.

    Args:
        shards: the tar files, in the order that numbers their images.

    Raises:
        DataError: compressed, broken or empty files, links, or labels for some only.
    """

    def __init__(self, shards: Sequence[str]):
        self._shards = list(shards)
        self._index = _index(tuple(_stamped(shard) for shard in shards))
        self._handles: dict[int, int] = {}

    @property
    def labels(self) -> np.ndarray | None:
        """A whole number for each image, int64 (N,); None where none has a label."""
        return self._index.labels

    def __len__(self) -> int:
        return len(self._index.shard)

    def name(self, index: int) -> str:
        """Shard and member: ``/data/shard-000.tar/a/17.jpg``."""
        shard = self._shards[self._index.shard[checked_index(index, len(self))]]
        return posixpath.join(shard, self._index.names[index])

    def read(self, index: int) -> bytes:
        """The member's bytes.

        Raises:
            OSError: the shard is gone, or ends early.
        """
        place = checked_index(index, len(self))
        shard, size = int(self._index.shard[place]), int(self._index.size[place])
        handle, ours = self._handle(shard)
        try:
            # Needs no file position, so threads and forked workers may share it.
            data = os.pread(handle, size, int(self._index.offset[place]))
        finally:
            if not ours:
                os.close(handle)
        if len(data) != size:
            raise OSError(f"the shard ends {size - len(data)} bytes too early")
        return data

    def _handle(self, shard: int) -> tuple[int, bool]:
        """An open file, and whether it is kept for later."""
        handle = self._handles.get(shard)
        if handle is not None:
            return handle, True
        handle = os.open(self._shards[shard], os.O_RDONLY | os.O_CLOEXEC)
        if len(self._handles) >= MAX_OPEN_FILES:
            return handle, False
        kept = self._handles.setdefault(shard, handle)
        if kept != handle:  # Another thread was quicker.
            os.close(handle)
        return kept, True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}}

    def __del__(self) -> None:
        for handle in self.__dict__.get("_handles", {}).values():
            os.close(handle)


class _Member(NamedTuple):
    """An image in a shard."""

    shard: int
    name: str
    offset: int
    size: int
    label: int | None


def refuse_compressed(path: str) -> None:
    """Raises a DataError with the remedy if the name is that of a compressed tar."""
    if path.lower().endswith(COMPRESSED_SUFFIXES):
        raise DataError(
            f"{path} is a compressed tar, in which no image can be reached without all "
            "before it. Unpack it to .tar (gunzip, unxz, bunzip2 or unzstd); images "
            "hardly compress, so it grows little."
        )


class _Index(NamedTuple):
    """Where the images lie: arrays (N,), not to be written to."""

    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    names: PackedStrings
    labels: np.ndarray | None


class _Shard(NamedTuple):
    """A tar file as it is now: another size or time is another file."""

    path: str
    size: int
    changed: int


# A start opens the same shards for its checks, for mean and std, and for the run.
@functools.lru_cache(maxsize=2)
def _index(shards: tuple[_Shard, ...]) -> _Index:
    found = _scan(shards)
    if not found:
        first, *others = shards
        more = f" and {len(others)} more" if others else ""
        raise DataError(
            f"in {first.path}{more} there is no image; wanted members such as "
            f"000017.jpg ({' '.join(sorted(IMAGE_SUFFIXES))}), and 000017.cls for a "
            "label."
        )
    return _Index(
        np.array([member.shard for member in found], np.int32),
        np.array([member.offset for member in found], np.int64),
        np.array([member.size for member in found], np.int64),
        PackedStrings(member.name for member in found),
        _checked_labels(shards, found),
    )


def _checked_labels(
    shards: Sequence[_Shard], found: Sequence[_Member]
) -> np.ndarray | None:
    without = [member for member in found if member.label is None]
    if not without:
        return np.array([member.label for member in found], np.int64)
    if len(without) < len(found):
        first = without[0]
        raise DataError(
            f"{shards[first.shard].path}/{first.name} has no .cls member, but "
            f"{len(found) - len(without)} of {len(found)} images have one. Give every "
            "image a label, or none."
        )
    return None


def _scan(shards: Sequence[_Shard]) -> list[_Member]:
    progress, found = _ScanProgress(sum(shard.size for shard in shards)), []
    try:
        for number, shard in enumerate(shards):
            found += _scan_one(shard.path, number, progress)
            progress.done += shard.size
    finally:
        progress.close(len(shards))
    return found


def _stamped(shard: str) -> _Shard:
    try:
        status = os.stat(shard)
    except OSError as error:
        raise DataError(
            f"{shard} cannot be opened: {error.strerror}. Check the name, and whether "
            "all shards are there."
        ) from error
    return _Shard(shard, status.st_size, status.st_mtime_ns)


def _scan_one(shard: str, number: int, progress: _ScanProgress) -> list[_Member]:
    images: list[tuple[str, int, int]] = []
    labels: dict[str, int] = {}
    try:
        with tarfile.open(shard, "r:", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                # Else tarfile keeps a kilobyte a member.
                tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
                progress.at(member.offset)
                base = posixpath.basename(member.name)
                kind = posixpath.splitext(base)[1].lower()
                if base.startswith(".") or member.isdir():
                    continue
                if kind in IMAGE_SUFFIXES:
                    _refuse_link(shard, member)
                    images.append((member.name, member.offset_data, member.size))
                elif kind == ".cls":
                    labels[member_key(member.name)] = _label(shard, tar, member)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"{shard} cannot be read as an uncompressed tar: {error}. Copy or make it "
            "anew; `tar tf` shows how far it is whole."
        ) from error
    # Beside 17.jpg, 17.mask.png is no photograph; where no member has a plain name the
    # dots are the file names' own.
    plain = {member_key(name) for name, *_ in images if is_plain(name)}
    return [
        _Member(number, name, offset, size, labels.get(member_key(name)))
        for name, offset, size in images
        if is_plain(name) or member_key(name) not in plain
    ]


def member_key(name: str) -> str:
    """What the members of a sample share: the path up to the file name's first dot."""
    folder, base = posixpath.split(name)
    return posixpath.join(folder, base.partition(".")[0])


def is_plain(name: str) -> bool:
    """Whether the file name has one dot, as 17.jpg has and 17.mask.png has not."""
    return posixpath.basename(name).count(".") == 1


def _refuse_link(shard: str, member: tarfile.TarInfo) -> None:
    if not member.isreg() or member.issparse():
        raise DataError(
            f"{member.name} in {shard} is a link or sparse; wanted the file itself. "
            "Make the tar with --dereference --hard-dereference."
        )


def _label(shard: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> int:
    file = tar.extractfile(member)
    text = b"" if file is None else file.read()
    try:
        label = int(text)
        if 0 <= label < 10**MAX_DIGITS:
            return label
    except ValueError:
        pass
    raise DataError(
        f"{member.name} in {shard} holds {text[:20]!r}; wanted a whole number from 0, "
        f"of {MAX_DIGITS} digits at most."
    )


class _ScanProgress:
    """A bar on a terminal where the scan is slow, and then a line in the log."""

    def __init__(self, total: int):
        self.done = 0
        self._total = total
        self._started = time.monotonic()
        self._bar: Any = None
        self._calls = 0

    def at(self, offset: int) -> None:
        self._calls += 1
        if self._calls % 256:
            return
        if self._bar is None and time.monotonic() - self._started > SLOW_SECONDS:
            self._bar = _start_bar(self._total)
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self.done + offset)

    def close(self, num_shards: int) -> None:
        if self._bar is not None:
            self._bar.stop()
        seconds = time.monotonic() - self._started
        if seconds > SLOW_SECONDS:
            _LOG.info(f"Scanned the headers of {num_shards} shards in {seconds:.0f} s.")


def _start_bar(total: int) -> Any:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    bar.add_task("indexing shards", total=total)
    bar.start()
    return bar
