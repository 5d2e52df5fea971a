"""The embedded data set: five classes that neither raw pixels nor colour give away.

Each image is filled with copies of one small glyph; the class is the glyph's shape
(``glyphs``).  Places, sizes, turns and colours of the copies, what lies behind them and
the grain are drawn anew for every image (``scenes``).  All pixels follow from the seed:
image i of a split is the same whatever the number of images.

The folder is laid out as class folders, which VISSL's ``disk_folder`` reads::

    <folder>/train/<class>/00000.png     <folder>/test/<class>/00003.png
    <folder>/manifest.json               written last: its presence says "finished"
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vissl_swav.data.errors import DataError
from vissl_swav.data.glyphs import GLYPHS
from vissl_swav.data.scenes import SIDE, draw_scene

EMBEDDED_CLASSES: tuple[str, ...] = tuple(sorted(GLYPHS))
"""Names of the classes in label order (folders are read in alphabetical order)."""

VERSION = 2
"""Raised whenever the same seed gives other pixels."""

MANIFEST = "manifest.json"
_SPLITS = ("train", "test")

Progress = Callable[[int, int], None]


def build(
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    num_train: int = 4000,
    num_test: int = 1000,
    progress: Progress | None = None,
) -> Path:
    """Write the data set, or reuse a finished one with the same settings.

    The images are written beside ``folder`` and moved there in one step, so a run that
    was broken off leaves no folder that looks finished.

    Args:
        folder: where the data set shall be; the folders above it are made.
        seed: of every draw.
        num_train: training images over all classes, shared out evenly.
        num_test: test images over all classes.
        progress: called with (images written, images in all) now and then.

    Returns:
        ``folder`` as a path.

    Raises:
        DataError: the folder holds something that this function did not write, or a
            data set with other settings; nothing is changed then.
    """
    folder = Path(folder)
    wanted = {
        "what": "vissl_swav embedded data set",
        "version": VERSION,
        "seed": seed,
        "side": SIDE,
        "train": _checked_count("num_train", num_train),
        "test": _checked_count("num_test", num_test),
        "classes": list(EMBEDDED_CLASSES),
    }
    if is_finished(folder, wanted):
        return folder
    _refuse_foreign(folder, wanted)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write_all(scratch, wanted, progress)
        _move_into_place(scratch, folder, wanted)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def draw(split: str, index: int, *, seed: int = 0) -> tuple[np.ndarray, int]:
    """Draw one image and its label without a file.

    Args:
        split: ``train`` or ``test``.
        index: number of the image; its class is ``index`` modulo the number of classes.
        seed: of the data set.

    Returns:
        Levels (side, side, 3) uint8, and the label.
    """
    label = index % len(EMBEDDED_CLASSES)
    random = np.random.default_rng([seed, _SPLITS.index(split), index])
    return np.asarray(draw_scene(GLYPHS[EMBEDDED_CLASSES[label]], random)), label


def is_finished(folder: Path, wanted: dict[str, Any]) -> bool:
    """Say whether the folder holds this very data set with every image there."""
    if _read_manifest(folder) != wanted:
        return False
    return all(_count_images(folder / split) == wanted[split] for split in _SPLITS)


def _checked_count(name: str, count: int) -> int:
    if count < len(EMBEDDED_CLASSES):
        raise DataError(
            f"{name} is {count}; wanted at least {len(EMBEDDED_CLASSES)}, one a class."
        )
    return count


def _read_manifest(folder: Path) -> Any:
    try:
        return json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _count_images(split: Path) -> int:
    return sum(1 for path in split.glob("*/*.png") if path.stat().st_size > 0)


def _refuse_foreign(folder: Path, wanted: dict[str, Any]) -> None:
    """Only an empty folder or an incomplete or older set of ours is replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    found = _read_manifest(folder)
    is_ours = isinstance(found, dict) and found.get("what") == wanted["what"]
    if not is_ours:
        raise DataError(
            f"{folder} exists and is no embedded data set; wanted a new or empty "
            "folder. Name another one, or remove it yourself."
        )
    if found != wanted and found.get("version") == VERSION:
        other = sorted(key for key in wanted if found.get(key) != wanted[key])
        raise DataError(
            f"{folder} holds an embedded data set with other settings ("
            + ", ".join(f"{key} {found.get(key)} not {wanted[key]}" for key in other)
            + "). Name another folder, or remove this one."
        )


def _write_all(
    scratch: Path, wanted: dict[str, Any], progress: Progress | None
) -> None:
    total, written = sum(wanted[split] for split in _SPLITS), 0
    for split in _SPLITS:
        for name in EMBEDDED_CLASSES:
            (scratch / split / name).mkdir(parents=True)
        for index in range(wanted[split]):
            _write_image(scratch / split, split, index, wanted["seed"])
            written += 1
            if progress is not None and (written % 100 == 0 or written == total):
                progress(written, total)
    text = json.dumps(wanted, indent=1) + "\n"
    (scratch / MANIFEST).write_text(text, encoding="utf-8")


def _write_image(folder: Path, split: str, index: int, seed: int) -> None:
    levels, label = draw(split, index, seed=seed)
    path = folder / EMBEDDED_CLASSES[label] / f"{index:05d}.png"
    # Grain hardly compresses; level 1 is three times as fast as the default.
    Image.fromarray(levels).save(path, compress_level=1)


def _move_into_place(scratch: Path, folder: Path, wanted: dict[str, Any]) -> None:
    """Replace whatever incomplete set is there; a set finished meanwhile stays."""
    # mkdtemp makes a folder for its owner alone; give it the usual permissions.
    umask = os.umask(0)
    os.umask(umask)
    scratch.chmod(0o777 & ~umask)
    if is_finished(folder, wanted):
        return
    if folder.exists():
        shutil.rmtree(folder)
    try:
        scratch.rename(folder)
    except OSError:
        # Another process was quicker.
        if not is_finished(folder, wanted):
            raise
