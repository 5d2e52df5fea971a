"""Names that numpy and the standard library have dropped since 2021.

Symptoms: ``AttributeError: module 'numpy' has no attribute 'float'`` (or `bool`, `int`,
    `in1d`), ``AttributeError: module 'collections' has no attribute
    'MutableMapping'``: at run time, deep in an evaluation.
Host lines: `vissl/utils/svm_utils/evaluate.py:43` (the SVM's average precision),
    `vissl/meters/mean_ap_meter.py:70`, `vissl/data/collators/cutmixup_collator.py:372`,
    `vissl/utils/instance_retrieval_utils/{rmac.py:102,evaluate.py:133}`,
    `vissl/utils/misc.py:373`, `classy_vision/generic/util.py:370`,
    `classy_vision/hooks/visdom_hook.py:89`,
    `classy_vision/dataset/transforms/autoaugment.py:170`.
Remedy: those modules, and only those, see `np` and `collections` with the old names.
Delete it when: the modules above no longer use them.
"""

from __future__ import annotations

import collections.abc
from types import ModuleType

from vissl_swav.compat.import_hook import after_import
from vissl_swav.compat.module_proxy import overlay

NAME = "removed_names"
NUMPY_USERS = (
    "vissl.utils.svm_utils.evaluate",
    "vissl.meters.mean_ap_meter",
    "vissl.data.collators.cutmixup_collator",
    "vissl.utils.instance_retrieval_utils.rmac",
    "vissl.utils.instance_retrieval_utils.evaluate",
    "classy_vision.dataset.transforms.autoaugment",
)
COLLECTIONS_USERS = (
    "vissl.utils.misc",
    "classy_vision.generic.util",
    "classy_vision.hooks.visdom_hook",
)


def needed() -> bool:
    """Python 3.10 and newer, our minimum, have all of `collections` names removed."""
    return not hasattr(collections, "MutableMapping")


def apply() -> None:
    """Arm the views for the moment each module has run."""
    for name in NUMPY_USERS:
        after_import(name, restore_numpy_names)
    for name in COLLECTIONS_USERS:
        after_import(name, restore_collections_names)


def restore_numpy_names(module: ModuleType) -> None:
    """Let the module see `np` with the names of numpy 1.19."""
    import numpy

    overlay(module, "np", float=float, int=int, bool=bool, in1d=numpy.isin)


def restore_collections_names(module: ModuleType) -> None:
    """Let the module see `collections` with the name of Python 3.9."""
    overlay(module, "collections", MutableMapping=collections.abc.MutableMapping)
