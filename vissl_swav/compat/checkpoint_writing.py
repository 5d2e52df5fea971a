"""Checkpoints that are whole or not there.

Symptom: a job that is killed, or a disk that fills up, while the host writes a
    checkpoint leaves a torn file under the final name, beside a link
    ``checkpoint.torch`` that is gone or points at it; the next start dies with
    ``PytorchStreamReader failed reading zip archive``.
Host lines: `classy_vision/generic/util.py:352` opens the final name ("write checkpoint
    atomically", says the comment above it), `vissl/utils/io.py:47` removes the link
    before it makes a new one.
Remedy: a temporary file in the same folder, flushed, fsynced, renamed, and the folder
    fsynced; the link likewise. A write that fails removes the temporary file and stops
    the run with what is free and what is needed; earlier checkpoints stay as they are.
Delete it when: VISSL writes to another name and renames.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, cast

from vissl_swav.compat.import_hook import after_import
from vissl_swav.compat.wrapping import wrap

NAME = "checkpoint_writing"
# Nothing in these names that the host takes for a checkpoint's.
_PREFIX, _SUFFIX = ".being-written-", ".partial"


class CheckpointNotWritten(OSError):
    """The disk would not take a checkpoint; the run must not go on without one."""


def needed() -> bool:
    """Always."""
    return True


def apply() -> None:
    """Arm the patch."""
    after_import("vissl.utils.checkpoint", write_whole_files)


def write_whole_files(module: ModuleType) -> None:
    """Let `CheckpointWriter` write by `save` and link by `link`.

    Folders of another kind than the local one ("s3://...") are left to the host.
    """

    def around_save(original: Callable[..., Any]) -> Callable[..., Any]:
        def save_checkpoint(
            checkpoint_folder: str, state: Any, checkpoint_file: str
        ) -> str:
            if "://" in checkpoint_folder:
                return original(checkpoint_folder, state, checkpoint_file)
            save(state, Path(checkpoint_folder) / checkpoint_file)
            return f"{checkpoint_folder}/{checkpoint_file}"

        return save_checkpoint

    def around_link(original: Callable[..., Any]) -> Callable[..., Any]:
        def create_file_symlink(file1: str, file2: str) -> None:
            if "://" in file2:
                original(file1, file2)
            else:
                link(Path(file1), Path(file2))

        return create_file_symlink

    wrap(module, "save_checkpoint", around_save, shim=NAME)
    wrap(module, "create_file_symlink", around_link, shim=NAME)


def save(content: Any, path: Path) -> None:
    """`torch.save`, so that `path` holds all of it or what it held before.

    Raises:
        CheckpointNotWritten: with the numbers of bytes free and needed.
    """
    import torch

    scratch = _scratch(path.parent)
    recorder = _Recorder()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(scratch, "xb") as file:
            recorder.file = file
            torch.save(content, cast(BinaryIO, recorder))
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
        _sync_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        # torch's writer reports a failed write as a RuntimeError of its own.
        cause = error if isinstance(error, OSError) else recorder.error
        if cause is None or not isinstance(error, Exception):
            raise
        raise _refusal(content, path, cause) from cause


def link(target: Path, name: Path) -> None:
    """Point the symbolic link `name` at `target`, in one step.

    Relative within a folder, so that the folder can be moved. A file system without
    links is no reason to stop: the checkpoint itself is safe.
    """
    scratch = _scratch(name.parent)
    near = target.parent.absolute() == name.parent.absolute()
    try:
        os.symlink(target.name if near else target, scratch)
        os.replace(scratch, name)
        _sync_folder(name.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        logging.warning(f"The link {name} to {target.name} was not made: {error}")


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed process was writing; call it before any process writes."""
    for scratch in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            scratch.unlink()
            logging.info(f"Removed {scratch.name}, which was never finished")


class _Recorder:
    """Hands bytes on to a file; remembers the error, and how many bytes there were."""

    def __init__(self, file: BinaryIO | None = None) -> None:
        self.file = file
        self.error: OSError | None = None
        self.num_bytes = 0

    def write(self, data: Any) -> int:
        self.num_bytes += memoryview(data).nbytes
        try:
            if self.file is not None:
                self.file.write(data)
        except OSError as error:
            self.error = error
            raise
        return memoryview(data).nbytes

    def flush(self) -> None:
        if self.file is not None:
            self.file.flush()


def _refusal(content: Any, path: Path, cause: OSError) -> CheckpointNotWritten:
    import torch

    counter = _Recorder()
    torch.save(content, cast(BinaryIO, counter))
    try:
        free = f"{shutil.disk_usage(path.parent).free:,}"
    except OSError:
        free = "an unknown number of"
    return CheckpointNotWritten(
        cause.errno,
        f"{cause.strerror or cause}: the checkpoint needs {counter.num_bytes:,} bytes "
        f"and {free} bytes are free. The checkpoints before it are untouched. Make "
        "room (or raise the quota) and start the same command again; it goes on from "
        "the last one",
        str(path),
    )


def _scratch(folder: Path) -> Path:
    return folder / f"{_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}{_SUFFIX}"


def _sync_folder(folder: Path) -> None:
    """Make a rename outlive a power cut; some file systems know no such call."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
