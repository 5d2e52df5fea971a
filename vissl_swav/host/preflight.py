"""What can be known to go wrong before anything is loaded: one message, exit code 2."""

import itertools
import logging
from pathlib import Path
from typing import Any

import yaml

from vissl_swav.compat.checkpoint_files import CheckpointError, to_resume_from
from vissl_swav.compat.checkpoint_loading import BrokenFile, UnsafeFile, check_is_data
from vissl_swav.host import settings, trial
from vissl_swav.host.config_values import leaves
from vissl_swav.host.data_checks import check_data
from vissl_swav.host.errors import StartError
from vissl_swav.host.machine_checks import check_machine
from vissl_swav.host.settings.same_run import differences, identity
from vissl_swav.host.settings.to_make import to_make

# Differences told by name; there are thousands of keys.
_TOLD = 12
# What the reading of a file raises that is no config of a run.
_NO_CONFIG = (
    *(yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError),
    RecursionError,
)
# A config of the host has 700 values.
_MOST_VALUES = 100_000


def check(cfg: Any, *, torchrun: bool = False) -> settings.RunFacts:
    """Runs every check on an inferred config; returns what they found out.

    Args:
        cfg: the config.
        torchrun: this is one of the processes that torchrun started.

    Raises:
        StartError: the first thing that makes the run impossible.
    """
    run = settings.run_facts(cfg)
    check_machine(run)
    run = check_data(run, torchrun=torchrun)
    parts = to_make(cfg)
    if parts is not None:
        trial.check(parts)
    if _check_checkpoint_folder(run) is None:
        _check_weights(run)
    return run


def _check_weights(run: settings.RunFacts) -> None:
    """The file that a new run starts from is there, and data alone.

    A run that goes on from a checkpoint does not read it.
    """
    path, key = run.initial_weights, "config.MODEL.WEIGHTS_INIT.PARAMS_FILE"
    if not path or "://" in path:
        return
    if not Path(path).is_file():
        raise StartError(f"{key} is {path}: there is no such file.", key=key)
    try:
        check_is_data(path)
    except (UnsafeFile, BrokenFile) as error:
        raise StartError(f"{key}: {error}", key=key) from error
    except OSError as error:
        raise StartError(
            f"{key}: {path} cannot be opened ({error.strerror}); look at its "
            "permissions, or name another file.",
            key=key,
        ) from error


def _check_checkpoint_folder(run: settings.RunFacts) -> Path | None:
    """The checkpoint to go on from, or None.

    A folder with checkpoints of another run is not continued, nor written to.
    """
    folder = Path(run.checkpoint_folder)
    if folder.exists() and not folder.is_dir():
        raise StartError(
            f"config.CHECKPOINT.DIR is {folder}, which is a file; name a folder.",
            key="config.CHECKPOINT.DIR",
        )
    old_file = folder / "train_config.yaml"
    if not any(folder.glob("*.torch")):
        return None
    if not old_file.is_file():
        raise StartError(
            f"{folder} holds checkpoints but no train_config.yaml, so whose they are "
            "is unknown; name another config.CHECKPOINT.DIR.",
            key="config.CHECKPOINT.DIR",
        )
    try:
        old = _saved_config(old_file)
        old_identity = identity(old)
    except (*_NO_CONFIG, OSError) as error:
        raise StartError(
            f"{old_file} cannot be read ({type(error).__name__}), so whether the "
            "checkpoints beside it are of this run is unknown; name another "
            "config.CHECKPOINT.DIR."
        ) from error
    different = [
        f"{key}: {old_identity.get(key)!r} there, {value!r} here"
        for key, value in run.identity.items()
        if old_identity.get(key) != value
    ]
    if different:
        raise StartError(
            f"{folder} holds checkpoints of another run ({'; '.join(different)}). "
            "Their state would not fit here, or mean something else. Nothing was "
            "changed there; name another config.CHECKPOINT.DIR. (The same images at "
            f"another place? Then correct DATA_PATHS in {old_file}.)",
            key="config.CHECKPOINT.DIR",
        )
    return _check_resume(run, folder, differences(old, run.config))


def _saved_config(file: Path) -> Any:
    """The tree of an earlier run's config.

    Raises:
        ValueError: it holds more values than a config, by references to itself say.
    """
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    if len(list(itertools.islice(leaves(tree), _MOST_VALUES))) == _MOST_VALUES:
        raise ValueError(f"{_MOST_VALUES} values or more")
    return tree


def _check_resume(
    run: settings.RunFacts, folder: Path, differences: dict[str, tuple[Any, Any]]
) -> Path | None:
    """Something whole is there to go on from; what differs is said in one line."""
    if run.resumes_to is None:
        return None
    try:
        found = to_resume_from(folder, num_phases=run.resumes_to)
    except CheckpointError as error:
        raise StartError(str(error), key="config.CHECKPOINT.DIR") from error
    if found is None:
        return None
    if not differences:
        return found.path
    told = [f"{key} {old!r} -> {new!r}" for key, (old, new) in differences.items()]
    more = f" and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
    logging.warning(
        f"vissl_swav: goes on from {found.path.name}, which was written with other "
        f"settings; taken from here: {', '.join(told[:_TOLD])}{more}"
    )
    return found.path
