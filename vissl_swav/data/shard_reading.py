"""Tar files from front to back: which there are, and the images of one in their order.

For sets that are too large for an index (`image_stream`); compressed tars work too. The
images of a shard are numbered as they lie, readable or not.
"""

from __future__ import annotations

import lzma
import os
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

from vissl_swav.data.errors import DataError
from vissl_swav.data.folders import IMAGE_SUFFIXES, AnyPath, refuse_locked
from vissl_swav.data.image_list import expand_braces
from vissl_swav.data.tar_shards import is_plain, member_key

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_ReadError, _HeaderError = tarfile.ReadError, tarfile.HeaderError
# The others stand for an end: zeros, or nothing more in the file.
_BROKEN_HEADERS = ("InvalidHeaderError", "TruncatedHeaderError")
_FAULTS = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)
_WANTED = (
    "wanted a folder with tar files, one tar file, or shards-{00000..00999}.tar; they "
    f"may be compressed ({' '.join(SUFFIXES[1:])})"
)
Wanted = Callable[[int], bool]


class Member(NamedTuple):
    """An image of a shard.

    Attributes:
        number: among the images of the shard, from 0.
        name: of the member.
        data: its bytes; None where they were not asked for.
    """

    number: int
    name: str
    data: bytes | None


class BrokenShard(DataError):
    """A shard that cannot be read, or not to its end.

    Args:
        shard: its path.
        num_images: images before the fault.
        reason: why, in a few words.
    """

    def __init__(self, shard: str, num_images: int, reason: str):
        super().__init__(f"{shard} breaks off after {num_images} images: {reason}")
        self.shard, self.num_images, self.reason = shard, num_images, reason


def is_shard(name: str) -> bool:
    """Whether the name is that of a tar file that can be streamed."""
    return name.lower().endswith(SUFFIXES)


def list_shards(path: AnyPath) -> list[str]:
    """The tar files that a path names, in alphabetical order; none of them is opened.

    Raises:
        DataError: there is none.
    """
    text = os.path.abspath(os.path.expanduser(os.fspath(path)))
    if os.path.isdir(text):
        found = sorted(_shards_below(text))
    elif os.path.isfile(text):
        found = [text] if is_shard(text) else []
    elif "{" in text:
        found = [name for name in expand_braces(text) if is_shard(name)]
        missing = [name for name in found if not os.path.isfile(name)]
        if missing:
            raise DataError(
                f"{len(missing)} of the {len(found)} shards of {text} are not there, "
                f"{missing[0]} for one. Mend the range, or mount the disk."
            )
    else:
        raise DataError(f"there is no {text}; {_WANTED}.")
    if not found:
        raise DataError(f"{text} holds no tar file; {_WANTED}.")
    return found


def _shards_below(folder: str) -> Iterator[str]:
    walk = os.walk(folder, followlinks=True, onerror=refuse_locked)
    for place, folders, names in walk:
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if is_shard(name) and not name.startswith("."):
                yield os.path.join(place, name)


def images_of(shard: str, wanted: Wanted) -> Iterator[Member]:
    """The images of a shard, with the bytes of those that are wanted.

    Of ``17.jpg`` and a ``17.mask.png`` behind it the first counts. A link, which has no
    bytes of its own, and an image that is cut off come with empty ones: so the count is
    the same whether bytes are read or not.

    Args:
        shard: the tar file.
        wanted: tells of an image's number whether its bytes are to be read.

    Raises:
        BrokenShard: it cannot be read (to its end).
    """
    count = 0
    try:
        with (
            open(shard, "rb") as file,
            _opened(file, compressed=not shard.lower().endswith(".tar")) as tar,
        ):
            for member in _image_members(tar):
                data = None
                if wanted(count):
                    try:
                        data = _data(tar, member)
                    except _FAULTS:
                        yield Member(count, member.name, b"")
                        count += 1
                        raise
                yield Member(count, member.name, data)
                count += 1
    except _FAULTS as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise BrokenShard(shard, count, reason) from error


def _opened(file: IO[bytes], *, compressed: bool) -> tarfile.TarFile:
    """Seeks over what is not wanted; a compressed file has to be read through."""
    options: Any = {"errors": "surrogateescape", "tarinfo": _StrictInfo}
    return tarfile.open(fileobj=file, mode="r|*" if compressed else "r:", **options)


def _image_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    plain: str | None = None
    while (member := tar.next()) is not None:
        # Else tarfile keeps a kilobyte a member.
        tar.members = []  # pyright: ignore[reportAttributeAccessIssue]
        base = posixpath.basename(member.name)
        if member.isdir() or base.startswith("."):
            continue
        if posixpath.splitext(base)[1].lower() not in IMAGE_SUFFIXES:
            continue
        key = member_key(member.name)
        if is_plain(member.name):
            plain = key
        elif key == plain:
            continue
        yield member


def _data(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if not member.isreg() or member.issparse():
        return b""
    # `extractfile` does the same by way of three more objects.
    file: Any = tar.fileobj
    file.seek(member.offset_data)
    data: bytes = file.read(member.size)
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name} is cut off")
    return data


class _StrictInfo(tarfile.TarInfo):
    """`tarfile` takes a header that is damaged or cut off for the end of the file."""

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(tarfile)
        except _HeaderError as error:
            if type(error).__name__ not in _BROKEN_HEADERS:
                raise
            raise _ReadError(
                f"the header at byte {tarfile.offset} is broken: {error}"
            ) from error
