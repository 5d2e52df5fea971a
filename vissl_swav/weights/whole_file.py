"""A file that is whole or not there, and never over another one unasked."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from vissl_swav.weights.errors import WeightsError


def check_free(target: Path, *, force: bool) -> None:
    """Refuses before any work what could not be written after it.

    Raises:
        WeightsError: no such folder, a folder of that name, or a file without `force`.
    """
    if not target.parent.is_dir():
        raise WeightsError(
            f"there is no folder {target.parent} to write {target.name} into."
        )
    if target.is_dir():
        raise WeightsError(f"{target} is a folder; wanted the name of a file.")
    # A device would be replaced, not written to.
    if target.exists() and not target.is_file():
        raise WeightsError(f"{target} is no plain file; wanted the name of one.")
    if target.exists() and not force:
        raise WeightsError(
            f"{target} exists; name another file with -o, or overwrite it with --force."
        )


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A name in the same folder, which becomes `target` once all is on the disk."""
    # torch names what is in a file by what is before the name's last dot.
    number = uuid.uuid4().hex[:8]
    scratch = target.with_name(f".{target.stem}.{number}{target.suffix}")
    try:
        yield scratch
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(scratch, target)
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
