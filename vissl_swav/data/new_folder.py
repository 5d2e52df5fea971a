"""A folder that is made whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vissl_swav.data.errors import DataError
from vissl_swav.data.folders import AnyPath


def check_new(path: AnyPath) -> Path:
    """The folder's absolute path; it is new, or empty.

    Raises:
        DataError: something is there.
    """
    folder = Path(os.path.abspath(Path(path).expanduser()))
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise DataError(f"{folder} is there and is no folder; name a new one.")
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(
            f"{folder} is there and is not empty; name a new folder, or remove that "
            "one first."
        )
    return folder


@contextmanager
def new_folder(path: AnyPath) -> Iterator[Path]:
    """A scratch folder beside ``path`` that takes its place when the block ends well.

    Whatever ends the block otherwise, an interrupt from the keyboard too, removes the
    scratch folder, and ``path`` is as it was.

    Raises:
        DataError: there is something at ``path``, or nothing can be written there.
    """
    folder = check_new(path)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise DataError(
            f"{folder} cannot be made: {error.strerror}. Name a folder on a disk that "
            "may be written to."
        ) from error
    try:
        yield scratch
        # mkdtemp's folders are for their owner alone.
        scratch.chmod(0o777 & ~_umask())
        if folder.exists():
            folder.rmdir()
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _umask() -> int:
    """What this process takes off the rights of new files."""
    current = os.umask(0o022)
    os.umask(current)
    return current
