"""VOC07's lists by VISSL's own script, in this process."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np

from vissl_swav.data.class_splits import locate
from vissl_swav.data.errors import DataError
from vissl_swav.data.label_lists import Listed

_PLACES = ("VOC2007", "VOCdevkit/VOC2007")
_NO_TEST = (
    "In VOC 2007 they lie in an archive of their own, VOCtest_06-Nov-2007.tar, which "
    "goes into the same folder."
)


def voc07(local: Path) -> dict[str, Listed]:
    """Training and validation images together, and test; labels 1, 0 and -1.

    The script reads ``ImageSets/Main/<class>_<split>.txt``. VOC's 0, all objects of the
    class difficult, becomes -1; its -1, none there, becomes 0. Classes are in
    alphabetical order.

    Raises:
        DataError: no such tree, no lists of the test set, or lists with other lines.
    """
    tree = locate(local, ("ImageSets/Main", "JPEGImages"), _PLACES).absolute()
    main = tree / "ImageSets" / "Main"
    classes = _classes(main, "trainval")
    if not classes:
        raise DataError(f"{main} has no <class>_trainval.txt. Is it VOC 2007?")
    if _classes(main, "test") != classes:
        raise DataError(f"{main} lacks <class>_test.txt of some classes. {_NO_TEST}")
    script = _script()
    options = argparse.Namespace(
        data_source_dir=str(tree), separate_partitions=0, generate_json=0
    )
    splits = {}
    for split, ours in (("train", "trainval"), ("test", "test")):
        lines = sum(_checked_lines(main / f"{name}_{ours}.txt") for name in classes)
        paths, labels, _ = script.get_images_labels_info(split, options)
        if lines != len(paths) * len(classes):
            raise DataError(
                f"the lists {main}/*_{ours}.txt do not name the same images: "
                f"{len(paths)} images, {len(classes)} classes, {lines} lines."
            )
        splits[split] = Listed(paths, np.array(labels))
    return splits


def _classes(main: Path, split: str) -> list[str]:
    # `trainval.txt` itself has no class before its underscore.
    return sorted(file.stem.partition("_")[0] for file in main.glob(f"*_{split}.txt"))


def _checked_lines(file: Path) -> int:
    """Lines of a list; the script would pass over wrong ones and go on."""
    lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    for number, words in enumerate(lines, 1):
        if len(words) != 2 or words[1] not in ("-1", "0", "1"):
            raise DataError(
                f"line {number} of {file} is {' '.join(words)[:80]!r}; wanted the name "
                "of an image and -1, 0 or 1."
            )
    return len(lines)


def _script() -> Any:
    """VISSL's module; importing it must not set up this process's log."""
    root = logging.getLogger()
    # Its basicConfig does nothing where the root logger has a handler.
    guard = logging.NullHandler()
    root.addHandler(guard)
    try:
        from extra_scripts.datasets import create_voc_data_files as script
    except ImportError as error:
        raise DataError(
            f"VISSL's script for VOC cannot be imported ({error}); install VISSL: "
            "pip install --no-deps vissl==0.1.6."
        ) from error
    finally:
        root.removeHandler(guard)
    return script
