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

Refused before torch reads it: an archive that would unpack to more than its size, and
one with a damaged part (torch itself reads over some of them). Whatever else a broken
file makes torch raise comes out as one error with the file's name. The one way to have
a file of other objects read is `VISSL_SWAV_TRUST_CHECKPOINTS=1`, which runs what is in
it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import zipfile
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
TRUST = "VISSL_SWAV_TRUST_CHECKPOINTS"
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
        UnsafeFile: the file needs a class or function that is not on the list, or would
            unpack to more than its size; the message names it and says what to do.
        BrokenFile: the file is cut short, damaged or of another kind.
        OSError: the file cannot be opened.
    """
    _check_archive(file, checksums=True)
    return _load(file, *arguments, **options)


def check_is_data(path: str) -> None:
    """Whether `load_checkpoint` would take a file, without reading its tensors.

    Of an archive only the directory and the pickle are read; files in torch's old
    format are read whole. With `VISSL_SWAV_TRUST_CHECKPOINTS=1` nothing is looked at,
    since looking would run what is in it.

    Raises:
        UnsafeFile: as `load_checkpoint`.
        BrokenFile: as `load_checkpoint`, damaged tensors excepted.
        OSError: the file cannot be opened.
    """
    if os.environ.get(TRUST) == "1":
        return
    _check_archive(path, checksums=False)
    _load(path, map_location="cpu", mmap=zipfile.is_zipfile(path))


def _load(file: Any, *arguments: Any, **options: Any) -> Any:
    import torch

    options.setdefault("weights_only", os.environ.get(TRUST) != "1")
    if not options["weights_only"]:
        return torch.load(file, *arguments, **options)
    attr_dicts: list[OrderedDict[Any, Any]] = []
    with _allowed([*_attr_dict_readers(attr_dicts), *_numpy_readers(), defaultdict]):
        try:
            content = torch.load(file, *arguments, **options)
            return _restore_attr_dicts(content, {id(one) for one in attr_dicts})
        except pickle.UnpicklingError as error:
            raise UnsafeFile(_refusal(file, error)) from error
        except Exception as error:
            if _says_itself(error):
                raise
            raise _broken(file, error) from error


class UnsafeFile(pickle.UnpicklingError):
    """A file that holds more than data."""


class BrokenFile(pickle.UnpicklingError):
    """A file that cannot be read to its end.

    Attributes:
        reason: in a few words, without the file's name.
    """

    def __init__(self, message: str, reason: str = ""):
        super().__init__(message)
        self.reason = reason or message


def _check_archive(file: Any, *, checksums: bool) -> None:
    """What torch writes is a zip archive of stored members, with checksums.

    `checksums` reads every byte: about a second for a gigabyte from a warm disk.

    Raises:
        UnsafeFile: it would unpack to more than its size.
        BrokenFile: a member does not have its checksum.
    """
    place = file.tell() if hasattr(file, "tell") else 0
    try:
        # Else the old format, or broken: torch's reader says so.
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                _check_sizes(file, archive)
                damaged = archive.testzip() if checksums else None
                if damaged is not None:
                    raise _broken(file, f"its part {damaged} fails its checksum")
    except Exception as error:
        if _says_itself(error):
            raise
        raise _broken(file, error) from error
    finally:
        if hasattr(file, "seek"):
            file.seek(place)


def _check_sizes(file: Any, archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    stored = sum(member.compress_size for member in members)
    total = sum(member.file_size for member in members)
    if total > stored:
        raise UnsafeFile(
            f"Refused to load {_name(file)}: its {stored} bytes would unpack to "
            f"{total}. What torch writes is not compressed; this file is damaged or "
            "made to fill the memory."
        )


def _says_itself(error: Exception) -> bool:
    """A broken file leads the readers to raise anything; one not there, OSError."""
    cannot_open = isinstance(error, OSError) and error.filename is not None
    return cannot_open or isinstance(error, (MemoryError, UnsafeFile, BrokenFile))


def _name(file: Any) -> Any:
    return getattr(file, "name", file)


def _broken(file: Any, error: Exception | str) -> BrokenFile:
    kind = f"{type(error).__name__}: " if isinstance(error, Exception) else ""
    reason = kind + (" ".join(str(error).split())[:200] or "no further word")
    message = (
        f"{_name(file)} cannot be read as a checkpoint ({reason}). It is cut short, "
        "damaged or of another kind; copy it anew, or take another of the run."
    )
    return BrokenFile(message, reason)


def _refusal(file: Any, error: Exception) -> str:
    name = re.search(r"GLOBAL ([\w.]+)", str(error))
    wanted = f"the object {name.group(1)!r}" if name else f"more than data ({error})"
    return (
        f"Refused to load {_name(file)}: it needs {wanted}, but VISSL's files are read "
        "as data: tensors, numbers, text, containers, numpy arrays and VISSL's "
        "AttrDict. A pickle that may name anything may also run anything. If you trust "
        f"whoever made the file, {TRUST}=1 in front of the command loads it, and runs "
        "what is in it. To allow that one object only: "
        "torch.serialization.add_safe_globals([...]) before the load. To rewrite the "
        "file once: content = torch.load(path, weights_only=False), then torch.save() "
        "of the tensors you want."
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

    # With the values themselves: an id may be given again once its value is gone.
    done: dict[int, tuple[Any, Any]] = {}

    def restored(value: Any) -> Any:
        if not isinstance(value, (dict, list, tuple)):
            return value
        if id(value) in done:
            return done[id(value)][1]
        if isinstance(value, dict):
            result = AttrDict({}) if id(value) in made else value
            done[id(value)] = value, result
            for key, entry in list(value.items()):
                result[key] = restored(entry)
            return result
        if isinstance(value, list):
            done[id(value)] = value, value
            value[:] = [restored(entry) for entry in value]
            return value
        result = value
        if type(value) is tuple:
            result = tuple(restored(entry) for entry in value)
        done[id(value)] = value, result
        return result

    return restored(content)
