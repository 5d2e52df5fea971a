"""`COPY_TO_LOCAL_DISK`: a copy without rsync and GNU parallel, of folders too.

Symptoms: without rsync ``sh: 1: rsync: not found``, then ``FileNotFoundError`` for a
    file; without GNU parallel ``sh: 1: parallel: not found``, then an empty folder with
    a mark that it is complete. With both, a folder whose classes are its labels:
    ``ValueError: too many values to unpack (expected 2)``, and where the copy was made
    it is not found and the original is read.
Host lines: `vissl/utils/io.py:234,269,276,305` (`copy_file`, `copy_dir`),
    `vissl/data/dataset_catalog.py:125` (`get_local_path`).
Remedy: the two functions are replaced by ones that copy by Python, of which no part
    of a copy is taken for the whole; the third also looks where the copy is. Data that
    lie in the folder of the copies are refused: the host deletes it after the run.
Delete it when: `copy_dir` returns two values for a copy that is there.

The configs of VISSL with it: semi-supervised, and the VOC07 SVM and low-shot SVM.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from vissl_swav.compat.import_hook import after_import
from vissl_swav.compat.wrapping import wrap

NAME = "local_copies"
COMPLETE = "copy_complete"


def needed() -> bool:
    """Always: of a folder the host's fails whatever the machine has."""
    return True


def apply() -> None:
    """Arm both modules."""
    after_import("vissl.utils.io", copy_by_python)
    after_import("vissl.data.dataset_catalog", find_the_copy)


def copy_by_python(module: ModuleType) -> None:
    """Replace `copy_file` and `copy_dir`."""
    wrap(module, "copy_file", lambda original: _file_copier(module), shim=NAME)
    wrap(module, "copy_dir", lambda original: _folder_copier(module), shim=NAME)


def _file_copier(module: ModuleType) -> Callable[..., tuple[str, str]]:
    def copy_file(
        input_file: str, destination_dir: str | None, tmp_destination_dir: str | None
    ) -> tuple[str, str]:
        local = str(module.g_pathmgr.get_local_path(input_file))
        folder = destination_dir
        if local == input_file and not folder:
            folder = tmp_destination_dir
        if not folder:
            return local, os.path.dirname(local)
        target = Path(module.get_slurm_dir(folder)) / Path(input_file).name
        _refuse_its_own_place(local, target.parent)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            # Renamed when it is whole: a file that is there is taken for the copy.
            aside = target.with_name(f".{target.name}-{os.getpid()}")
            shutil.copy2(local, aside)
            os.replace(aside, target)
            logging.info(f"Copied {input_file} to {target}")
        return str(target), str(target.parent)

    return copy_file


def _folder_copier(module: ModuleType) -> Callable[..., tuple[str, str]]:
    def copy_dir(
        input_dir: str, destination_dir: str, num_threads: int
    ) -> tuple[str, str]:
        target = Path(module.get_slurm_dir(destination_dir)) / Path(input_dir).name
        _refuse_its_own_place(input_dir, target)
        if not (target / COMPLETE).is_file():
            shutil.copytree(input_dir, target, dirs_exist_ok=True)
            (target / COMPLETE).touch()
            logging.info(f"Copied {input_dir} to {target}")
        return str(target), str(target)

    return copy_dir


def _refuse_its_own_place(source: str, folder: Path) -> None:
    """The host deletes the folder of the copies when the run is over.

    Raises:
        ValueError: the original lies in it.
    """
    original, place = Path(source).resolve(), folder.resolve()
    if place == original or place in original.parents:
        raise ValueError(
            f"COPY_DESTINATION_DIR leads to {folder}, where the data {source} itself "
            "lies; VISSL deletes that folder at the end of the run. Name another, or "
            "set COPY_TO_LOCAL_DISK=false."
        )


def find_the_copy(module: ModuleType) -> None:
    """Let `get_local_path` know a folder that is itself the copy."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def get_local_path(input_file: str, dest_dir: str) -> str:
            copy = Path(dest_dir)
            if copy.name == Path(input_file).name and (copy / COMPLETE).is_file():
                return dest_dir
            return original(input_file, dest_dir)

        return get_local_path

    wrap(module, "get_local_path", around, shim=NAME)
