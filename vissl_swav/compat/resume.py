"""Going on from the newest checkpoint that is whole.

Symptoms: ``AttributeError: 'NoneType' object has no attribute 'setdefault'`` with
    ``CHECKPOINT.AUTO_RESUME=true``, ``CHECKPOINT.OVERWRITE_EXISTING=true`` and more
    ``OPTIMIZER.num_epochs`` than the run in ``CHECKPOINT.DIR`` had. A torn file is
    taken for the newest checkpoint, and the start dies. With
    ``CHECKPOINT_ITER_FREQUENCY`` set, checkpoints of an epoch's end are not seen;
    without it, those in mid-epoch.
Host lines: `vissl/utils/checkpoint.py:618` asks for the file "None"; `:551` looks for
    one kind of file by its name alone. `:444`: a final checkpoint counts as a finished
    run whatever is in it, and however many epochs are asked for.
    `vissl/utils/distributed_launcher.py:112` follows the link ``checkpoint.torch``
    wherever it leads.
Remedy: `checkpoint_files.to_resume_from`. A checkpoint that cannot be read is named in
    the log and the one before it is taken; if none is left, the start stops. The final
    checkpoint of a finished run counts like the others if more epochs are asked for;
    if not, and with nothing else to go on from, the training starts anew, as
    OVERWRITE_EXISTING says.
Delete it when: VISSL checks what it resumes from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from vissl_swav.compat.checkpoint_files import fault_of, phases_done, to_resume_from
from vissl_swav.compat.checkpoint_writing import remove_leftovers
from vissl_swav.compat.import_hook import after_import
from vissl_swav.compat.wrapping import wrap

NAME = "resume"
LINK = "checkpoint.torch"


def needed() -> bool:
    """Always."""
    return True


def apply() -> None:
    """Arm the patches."""
    after_import("vissl.utils.checkpoint", resume_from_a_whole_file)
    after_import("vissl.utils.distributed_launcher", follow_only_a_good_link)


def resume_from_a_whole_file(module: ModuleType) -> None:
    """Choose the checkpoint ourselves; believe a final one only if it is whole."""

    def around_choice(original: Callable[..., Any]) -> Callable[..., Any]:
        def get_resume_checkpoint(cfg: Any, checkpoint_folder: str) -> str | None:
            section = cfg["CHECKPOINT"]
            if not section["AUTO_RESUME"] or "://" in checkpoint_folder:
                return original(cfg, checkpoint_folder=checkpoint_folder)
            folder = Path(checkpoint_folder)
            remove_leftovers(folder)
            back = max(0, section["LATEST_CHECKPOINT_RESUME_FILE_NUM"] - 1)
            phases = num_train_phases(cfg)
            found = to_resume_from(folder, num_phases=phases, back=back)
            if found is None:
                logging.info("No checkpoint to resume from: the training starts anew")
                return None
            logging.info(
                f"Resuming from {found.path.name}: {found.num_phases} of {phases} "
                f"training phases and {found.num_steps} steps are done"
            )
            return f"{checkpoint_folder}/{found.path.name}"

        return get_resume_checkpoint

    def around_end(original: Callable[..., Any]) -> Callable[..., Any]:
        def is_training_finished(cfg: Any, checkpoint_folder: str) -> bool | None:
            finished = original(cfg, checkpoint_folder=checkpoint_folder)
            if not finished or "://" in checkpoint_folder:
                return finished
            finals = sorted(Path(checkpoint_folder).glob("model_final*.torch"))
            faults = [
                f"{file.name} {fault}" for file in finals if (fault := fault_of(file))
            ]
            if len(faults) < len(finals):
                done, asked = max(map(phases_done, finals)), num_train_phases(cfg)
                return not cfg["CHECKPOINT"]["AUTO_RESUME"] or done >= asked or None
            logging.warning(
                f"vissl_swav: the run is not taken for finished: {'; '.join(faults)}"
            )
            return None

        return is_training_finished

    wrap(module, "get_resume_checkpoint", around_choice, shim=NAME)
    wrap(module, "is_training_finished", around_end, shim=NAME)


def follow_only_a_good_link(module: ModuleType) -> None:
    """USE_SYMLINK_CHECKPOINT_FOR_RESUME: where the link fails, choose by content."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def launch_distributed(cfg: Any, *arguments: Any, **options: Any) -> Any:
            section = cfg.CHECKPOINT
            link = Path(section.DIR) / LINK
            if section.USE_SYMLINK_CHECKPOINT_FOR_RESUME and link.is_symlink():
                fault = fault_of(link)
                if fault is not None:
                    logging.warning(f"vissl_swav: {link} {fault}; it is not followed")
                    section.USE_SYMLINK_CHECKPOINT_FOR_RESUME = False
                    section.AUTO_RESUME = True
            return original(cfg, *arguments, **options)

        return launch_distributed

    wrap(module, "launch_distributed", around, shim=NAME)


def num_train_phases(cfg: Any) -> int:
    """Training phases that a config asks for."""
    per_epoch = cfg["DATA"]["TRAIN"].get("TRAIN_PHASES_PER_EPOCH", 1)
    return cfg["OPTIMIZER"]["num_epochs"] * per_epoch
