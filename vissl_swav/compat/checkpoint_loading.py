"""`torch.load` by the host: data only, and the host's own class `AttrDict`.

Symptom: ``_pickle.UnpicklingError: Weights only load failed ... Unsupported global:
    GLOBAL vissl.config.attr_dict.AttrDict`` (torch >= 2.6, whose `torch.load` takes
    ``weights_only=True`` for granted), or numpy's scalars in place of `AttrDict`. On an
    older torch no symptom, but any file may run any code.
Host lines: `vissl/utils/checkpoint.py:282,292,390`, `vissl/utils/cluster_utils.py:45`,
    `classy_vision/generic/util.py:280`,
    `classy_vision/generic/distributed_util.py:280,283`,
    `classy_vision/dataset/classy_video_dataset.py:191`.
Remedy: those modules, and only those, see a `torch` whose `load` is ours:
    ``weights_only=True`` with the allow-list below. `torch.load` itself, and everybody
    else's use of it, stays as it is. `torch.serialization.add_safe_globals`, called by
    the user, adds to the list.
Delete it when: VISSL passes `weights_only` and registers `AttrDict` with torch.

torch's reader fills plain dictionaries only and refuses any subclass of `dict`, on the
allow-list or not. So an `AttrDict` is read as an OrderedDict and turned into an
`AttrDict` afterwards.
"""

from __future__ import annotations

import contextlib
import pickle
import re
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from vissl_swav.compat.import_hook import after_import
from vissl_swav.compat.module_proxy import overlay

NAME = "checkpoint_loading"
LOADING_MODULES = (
    "vissl.utils.checkpoint",
    "vissl.utils.cluster_utils",
    "classy_vision.generic.util",
    "classy_vision.generic.distributed_util",
    "classy_vision.dataset.classy_video_dataset",
)
# Where VISSL kept the class: 0.1.6, and before.
ATTR_DICT_NAMES = ("vissl.config.attr_dict", "vissl.utils.hydra_config")


def needed() -> bool:
    """Always: on every torch that we support."""
    return True


def apply() -> None:
    """Arm the view of torch for each module that loads."""
    for name in LOADING_MODULES:
        after_import(name, load_data_only)


def load_data_only(module: ModuleType) -> None:
    """Let the module see a `torch` whose `load` is `load_checkpoint`."""
    overlay(module, "torch", load=load_checkpoint)


def load_checkpoint(file: Any, *arguments: Any, **options: Any) -> Any:
    """`torch.load(..., weights_only=True)` with the host's allow-list.

    Args:
        file: path or open file.
        *arguments: as for `torch.load`.
        **options: as for `torch.load`; an explicit `weights_only` is respected.

    Raises:
        pickle.UnpicklingError: the file needs a class or function that is not on the
            list; the message names it and says what to do.
    """
    import torch

    if not options.setdefault("weights_only", True):
        return torch.load(file, *arguments, **options)
    attr_dicts: list[OrderedDict[Any, Any]] = []
    with _allowed([*_attr_dict_readers(attr_dicts), *_numpy_readers(), defaultdict]):
        try:
            content = torch.load(file, *arguments, **options)
        except pickle.UnpicklingError as error:
            raise pickle.UnpicklingError(_refusal(file, error)) from error
    return _restore_attr_dicts(content, {id(one) for one in attr_dicts})


def _refusal(file: Any, error: Exception) -> str:
    name = re.search(r"GLOBAL ([\w.]+)", str(error))
    wanted = f"the object {name.group(1)!r}" if name else f"more than data ({error})"
    where = getattr(file, "name", file)
    return (
        f"Refused to load {where}: it needs {wanted}, but VISSL's files are read as "
        "data: tensors, numbers, text, containers, numpy arrays and VISSL's AttrDict. "
        "A pickle that may name anything may also run anything. If you trust the file, "
        "either allow that one object with torch.serialization.add_safe_globals([...]) "
        "before the load, or rewrite the file once: "
        "content = torch.load(path, weights_only=False); then torch.save() of the "
        "tensors you want."
    )


@contextlib.contextmanager
def _allowed(readers: list[Any]) -> Iterator[None]:
    """`torch.serialization.safe_globals`, which torch 2.4 has only the halves of."""
    from torch import serialization

    before = serialization.get_safe_globals()
    serialization.add_safe_globals(readers)
    try:
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(before)


def _called(module: str, name: str, reader: Any) -> Any:
    """Give a reader the name under which a file asks for it."""
    reader.__module__, reader.__name__, reader.__qualname__ = module, name, name
    return reader


def _attr_dict_readers(made: list[OrderedDict[Any, Any]]) -> list[type]:
    """Classes that torch takes for `AttrDict` and that make an OrderedDict instead."""

    def new(cls: type, *arguments: Any) -> Any:
        made.append(OrderedDict(*arguments))
        return made[-1]

    return [
        _called(module, "AttrDict", type("AttrDict", (), {"__new__": new}))
        for module in ATTR_DICT_NAMES
    ]


def _renamed(function: Callable[..., Any]) -> Callable[..., Any]:
    def reader(*arguments: Any) -> Any:
        return function(*arguments)

    return reader


def _numpy_readers() -> list[Any]:
    """What a numpy array or scalar is made of, under numpy 1's and numpy 2's names."""
    import _codecs

    import numpy

    try:
        from numpy._core import multiarray
    except ImportError:  # numpy < 2
        from numpy.core import multiarray
    dtypes = {type(numpy.dtype(code)) for code in numpy.typecodes["All"]}
    renamed = [
        _called(f"numpy.{core}.multiarray", name, _renamed(getattr(multiarray, name)))
        for core in ("core", "_core")
        for name in ("scalar", "_reconstruct")
    ]
    return [numpy.ndarray, numpy.dtype, *dtypes, _codecs.encode, *renamed]


def _restore_attr_dicts(content: Any, made: set[int]) -> Any:
    """Turn the recorded dictionaries into `AttrDict`s, wherever they are."""
    if not made:
        return content
    from vissl.config import AttrDict

    done: dict[int, Any] = {}

    def restored(value: Any) -> Any:
        if id(value) in done:
            return done[id(value)]
        if isinstance(value, dict):
            result = AttrDict({}) if id(value) in made else value
            done[id(value)] = result
            for key, entry in list(value.items()):
                result[key] = restored(entry)
            return result
        if isinstance(value, list):
            done[id(value)] = value
            value[:] = [restored(entry) for entry in value]
            return value
        if type(value) is tuple:
            return tuple(restored(entry) for entry in value)
        return value

    return restored(content)
