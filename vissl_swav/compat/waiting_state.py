"""A teacher that was read from a checkpoint is written to the next one too.

Symptom: MoCo, DINO and VISSL's SwAV with momentum make their teacher in the first
    forward of a run, and keep what a checkpoint holds of it until then. A checkpoint
    written before that (a run resumed with the last step of its epoch done, or stopped
    at once) lacks teacher, queue and centre: the run after it goes on with no word from
    a teacher that is none, or ends in missing keys.
Host lines: `vissl/losses/moco_loss.py:161`, `vissl/losses/dino_loss.py:48`,
    `vissl/losses/swav_momentum_loss.py:106`.
Remedy: until the teacher is made, the state of the loss is the one that waits.
Delete it when: these losses do so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from vissl_swav.compat.import_hook import after_import
from vissl_swav.compat.wrapping import wrap

NAME = "waiting_state"

# Module under `vissl.losses`, its class, the attribute that holds the teacher.
LOSSES = (
    ("moco_loss", "MoCoLoss", "moco_encoder"),
    ("dino_loss", "DINOLoss", "momentum_teacher"),
    ("swav_momentum_loss", "SwAVMomentumLoss", "momentum_encoder"),
)


def needed() -> bool:
    """Always."""
    return True


def apply() -> None:
    """Arm the patches."""
    for module, name, teacher in LOSSES:
        patch = partial(keep, name=name, teacher=teacher)
        after_import(f"vissl.losses.{module}", patch, key=NAME)


def keep(module: ModuleType, *, name: str, teacher: str) -> None:
    """Let the loss `name` give the state that waits for its teacher as its own."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def state_dict(self: Any, *args: Any, **kwargs: Any) -> Any:
            if getattr(self, teacher) is None and self.checkpoint:
                return self.checkpoint
            return original(self, *args, **kwargs)

        return state_dict

    wrap(getattr(module, name), "state_dict", around, shim=NAME)
