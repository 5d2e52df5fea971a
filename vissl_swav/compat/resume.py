"""Resuming a finished run for more epochs.

Symptom: ``AttributeError: 'NoneType' object has no attribute 'setdefault'`` with
    ``CHECKPOINT.AUTO_RESUME=true``, ``CHECKPOINT.OVERWRITE_EXISTING=true`` and more
    ``OPTIMIZER.num_epochs`` than the run in ``CHECKPOINT.DIR`` had.
Host line: `vissl/utils/checkpoint.py:618`. With OVERWRITE_EXISTING the host skips
    `model_final_*`, takes the link `checkpoint.torch` for another checkpoint, finds
    none, and asks for the file "None".
Remedy: an earlier checkpoint, if there is one, is taken as before. Otherwise the final
    one, if it has fewer epochs behind it than now asked for; otherwise none, which
    starts the training anew, as OVERWRITE_EXISTING says.
Delete it when: VISSL returns None where it found no file.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

from vissl_swav.compat.import_hook import after_import
from vissl_swav.compat.wrapping import wrap

NAME = "resume"


def needed() -> bool:
    """Always."""
    return True


def apply() -> None:
    """Arm the patch."""
    after_import("vissl.utils.checkpoint", resume_from_a_file_that_is)


def resume_from_a_file_that_is(module: ModuleType) -> None:
    """Never let `get_resume_checkpoint` name a file called "None"."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def get_resume_checkpoint(cfg: Any, checkpoint_folder: str) -> str | None:
            path = original(cfg, checkpoint_folder=checkpoint_folder)
            if path != f"{checkpoint_folder}/None":
                return path
            files = module.g_pathmgr.ls(checkpoint_folder)
            name = unfinished_final_checkpoint(files, _num_train_phases(cfg))
            if name is None:
                logging.info("No checkpoint to resume from: the training starts anew")
                return None
            logging.info(f"Resuming the finished run for more epochs, from {name}")
            return f"{checkpoint_folder}/{name}"

        return get_resume_checkpoint

    wrap(module, "get_resume_checkpoint", around, shim=NAME)


def _num_train_phases(cfg: Any) -> int:
    per_epoch = cfg["DATA"]["TRAIN"].get("TRAIN_PHASES_PER_EPOCH", 1)
    return cfg["OPTIMIZER"]["num_epochs"] * per_epoch


def unfinished_final_checkpoint(files: list[str], num_phases: int) -> str | None:
    """Return the final checkpoint with the most phases behind it, if fewer than asked.

    Args:
        files: names in the checkpoint folder.
        num_phases: training phases now asked for.

    Returns:
        A file name, or None. `model_final_checkpoint_phase3.torch` has 4 phases
        behind it.
    """
    pattern = re.compile(r"model_final_checkpoint_phase(\d+)\.torch")
    finals = {
        int(m.group(1)) + 1: m.group(0) for f in files if (m := pattern.fullmatch(f))
    }
    if not finals or max(finals) >= num_phases:
        return None
    return finals[max(finals)]
