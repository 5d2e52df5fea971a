"""What can be known to go wrong before anything is loaded: one message, exit code 2."""

import logging
from pathlib import Path
from typing import Any

import yaml

from vissl_swav.compat.checkpoint_files import CheckpointError, to_resume_from
from vissl_swav.host import settings
from vissl_swav.host.data_checks import check_data
from vissl_swav.host.errors import StartError
from vissl_swav.host.machine_checks import check_machine
from vissl_swav.host.settings.same_run import differences, identity

# Differences told by name; there are thousands of keys.
_TOLD = 12


def check(cfg: Any, *, torchrun: bool = False) -> settings.RunFacts:
    """Runs every check on an inferred config; returns what they looked at.

    Args:
        cfg: the config.
        torchrun: this is one of the processes that torchrun started.

    Raises:
        StartError: the first thing that makes the run impossible.
    """
    run = settings.run_facts(cfg)
    check_machine(run)
    check_data(run, torchrun=torchrun)
    _check_weights(run)
    _check_checkpoint_folder(run)
    return run


def _check_weights(run: settings.RunFacts) -> None:
    path, key = run.initial_weights, "config.MODEL.WEIGHTS_INIT.PARAMS_FILE"
    if path and "://" not in path and not Path(path).is_file():
        raise StartError(f"{key} is {path}: there is no such file.", key=key)


def _check_checkpoint_folder(run: settings.RunFacts) -> None:
    """A folder with checkpoints of another run is not continued, nor written to."""
    folder = Path(run.checkpoint_folder)
    if folder.exists() and not folder.is_dir():
        raise StartError(
            f"config.CHECKPOINT.DIR is {folder}, which is a file; name a folder.",
            key="config.CHECKPOINT.DIR",
        )
    old_file = folder / "train_config.yaml"
    if not any(folder.glob("*.torch")):
        return
    if not old_file.is_file():
        raise StartError(
            f"{folder} holds checkpoints but no train_config.yaml, so whose they are "
            "is unknown; name another config.CHECKPOINT.DIR.",
            key="config.CHECKPOINT.DIR",
        )
    try:
        old = yaml.safe_load(old_file.read_text(encoding="utf-8"))
        old_identity = identity(old)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
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
    _check_resume(run, folder, differences(old, run.config))


def _check_resume(
    run: settings.RunFacts, folder: Path, differences: dict[str, tuple[Any, Any]]
) -> None:
    """Something whole is there to go on from; what differs is said in one line."""
    if run.resumes_to is None:
        return
    try:
        found = to_resume_from(folder, num_phases=run.resumes_to)
    except CheckpointError as error:
        raise StartError(str(error), key="config.CHECKPOINT.DIR") from error
    if found is None or not differences:
        return
    told = [f"{key} {old!r} -> {new!r}" for key, (old, new) in differences.items()]
    more = f" and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
    logging.warning(
        f"vissl_swav: goes on from {found.path.name}, which was written with other "
        f"settings; taken from here: {', '.join(told[:_TOLD])}{more}"
    )
