"""Archives of benchmark data sets: fetched by torchvision, unpacked with care.

A file is fetched or unpacked under another name and moved into place when it is whole,
so a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from vissl_swav.data.benchmarks import Archive
from vissl_swav.data.errors import DataError

_TARS = (".tar", ".tar.gz", ".tgz")
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error)


class Unreachable(DataError):
    """The network, or the server, could not be reached."""


def fetch(archive: Archive, folder: Path) -> None:
    """Puts an archive and what is in it into ``folder``, which may have it already.

    Raises:
        Unreachable: nothing came.
        DataError: the file is another one than the published, or cannot be unpacked.
    """
    done = folder / archive.mark
    if done.exists():
        return
    file = folder / archive.name
    if not file.exists():
        _download(archive, folder)
    elif archive.md5 is not None and _md5(file) != archive.md5:
        raise DataError(
            f"{file} is not whole, or another file than the published one: its MD5 sum "
            f"is not {archive.md5}. Remove it, and fetch it anew from {archive.url}."
        )
    if archive.name.endswith((*_TARS, ".zip")):
        unpack(file, folder)
    done.touch()


def unpack(file: Path, folder: Path) -> None:
    """Unpacks a tar or zip file; its members' files replace those of the same names.

    Raises:
        DataError: a member would leave the folder, or is a link or a device; or the
            file is broken.
    """
    with _scratch(folder) as scratch:
        try:
            opened = _zip_members if file.suffix == ".zip" else _tar_members
            for name, data in opened(file):
                target = scratch / _checked(name, file)
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "wb") as out:
                    shutil.copyfileobj(data, out, 1 << 20)
        except (*_BROKEN, OSError, EOFError) as error:
            raise DataError(
                f"{file} cannot be unpacked: {type(error).__name__}: {error}. Is the "
                "disk full, or the file cut off? Then make room, or fetch it anew."
            ) from error
        _merge(scratch, folder)


def _download(archive: Archive, folder: Path) -> None:
    # Imported late: torchvision is heavy, and may need mending before its import.
    from torchvision.datasets.utils import download_url

    with _scratch(folder) as scratch:
        try:
            download_url(archive.url, str(scratch), archive.name, archive.md5)
        # RuntimeError: torchvision's own "not found or corrupted".
        except (OSError, RuntimeError) as error:
            raise Unreachable(
                f"{archive.name} could not be downloaded ({type(error).__name__}: "
                f"{error})."
            ) from error
        os.replace(scratch / archive.name, folder / archive.name)


def _tar_members(file: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(file) as tar:
        for member in tar:
            if member.isdir():
                continue
            data = tar.extractfile(member) if member.isreg() else None
            if data is None:
                raise DataError(
                    f"{member.name} in {file} is a link or a device; an archive of "
                    "images has none. Nothing was unpacked."
                )
            yield member.name, data


def _zip_members(file: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                with archive.open(info) as data:
                    yield info.filename, data


def _checked(name: str, file: Path) -> PurePosixPath:
    """A member's path, which may not leave the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise DataError(
            f"{file} has the member {name!r}, which would be written outside of its "
            "folder. Nothing was unpacked."
        )
    return path


def _merge(source: Path, target: Path) -> None:
    """Moves every file below ``source`` to the same place below ``target``."""
    for place, _, names in os.walk(source):
        folder = target / os.path.relpath(place, source)
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            os.replace(os.path.join(place, name), folder / name)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    except OSError as error:
        raise DataError(
            f"nothing can be written to {folder}: {error.strerror}. Name another "
            "folder with --from."
        ) from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _md5(file: Path) -> str:
    # A checksum against damage, not against an attacker.
    digest = hashlib.md5(usedforsecurity=False)
    with open(file, "rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
