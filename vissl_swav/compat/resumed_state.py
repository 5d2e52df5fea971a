"""A resumed run goes on where, and as, its config says.

Symptoms: (1) resumed in mid-epoch, a schedule that moves once an epoch gives the
    learning rate of that moment, not that of the epoch's start. (2) With another global
    batch, or other data, the sampler is told to start at a negative step or beyond the
    epoch, and progress is off. (3) A weight decay or momentum changed in the config is
    silently replaced by the checkpoint's. (4) The state of hooks is in the checkpoint,
    but no hook gets it back.
Host lines: `vissl/trainer/trainer_main.py:330` (1), `vissl/trainer/train_task.py:512`
    and `classy_vision/tasks/classification_task.py:922` (2),
    `classy_vision/optim/classy_optimizer.py:212` (3), `vissl/trainer/train_task.py:566`
    (4); classy-vision's own task does it (`tasks/classification_task.py:1010`).
Remedy: (1) the schedule is asked again for the epoch's start. (2) Finished epochs count
    as finished; of an unfinished one as many images, in whole steps. It is logged. (3)
    The optimizer's state is the checkpoint's, its options are the config's. (4) Every
    hook is handed its state before the training starts.
Delete it when: VISSL does so.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

from vissl_swav.compat.import_hook import after_import
from vissl_swav.compat.wrapping import wrap

NAME = "resumed_state"


def needed() -> bool:
    """Always."""
    return True


def apply() -> None:
    """Arm the patches."""
    after_import("vissl.trainer.train_task", place_before_loading)
    after_import("vissl.trainer.trainer_main", start_the_epochs_schedule)


def place_before_loading(module: ModuleType) -> None:
    """Set position and options right before the task takes its state; then hooks."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def _set_classy_state(self: Any, state: dict[str, Any]) -> None:
            _count_anew(self, state)
            _keep_options(self, state)
            original(self, state)
            _hand_to_hooks(self, state)

        return _set_classy_state

    wrap(module.SelfSupervisionTask, "_set_classy_state", around, shim=NAME)


def start_the_epochs_schedule(module: ModuleType) -> None:
    """In an epoch that is resumed, the schedules by epoch stand where it began."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def _advance_phase(self: Any, task: Any) -> None:
            original(self, task)
            if not task.train or task.checkpoint is None:
                return
            steps = len(task.dataloaders["train"])
            if task.iteration > task.train_phase_idx * steps:
                task.optimizer.on_epoch(task.train_phase_idx / task.num_train_phases)

        return _advance_phase

    wrap(module.SelfSupervisionTrainer, "_advance_phase", around, shim=NAME)


def position(
    *,
    phases: int,
    iteration: int,
    old_batch: int,
    old_steps: int,
    batch: int,
    steps: int,
) -> int:
    """Steps done, counted in steps of today.

    Args:
        phases: training phases that are finished.
        iteration: steps done, as the checkpoint counts them.
        old_batch: images in a step of all ranks, then.
        old_steps: steps of a phase, then.
        batch: images in a step of all ranks, now.
        steps: steps of a phase, now.

    Returns:
        `phases` whole phases, and of the images of an unfinished one the whole steps.
    """
    done = iteration - phases * old_steps
    if not 0 <= done <= old_steps:
        done = 0  # Of other data: where in it is not known.
    return phases * steps + min(steps, done * old_batch // batch)


def _count_anew(task: Any, state: dict[str, Any]) -> None:
    checkpoint = task.checkpoint
    if not checkpoint or "train" not in task.datasets or checkpoint["iteration"] <= 0:
        return
    data, iteration = task.datasets["train"], checkpoint["iteration"]
    phases, batch = checkpoint["train_phase_idx"] + 1, data.get_global_batchsize()
    steps = len(task.dataloaders["train"])
    old_batch = max(1, round(state["num_updates"] / iteration))
    if "phase" in os.path.basename(os.path.realpath(task.checkpoint_path)):
        old_steps = iteration // phases if phases else 0
    elif task.config["DATA"]["TRAIN"]["DROP_LAST"]:
        old_steps = len(data) // old_batch
    else:
        old_steps = -(-len(data) // old_batch)
    now = position(
        phases=phases,
        iteration=iteration,
        old_batch=old_batch,
        old_steps=old_steps,
        batch=batch,
        steps=steps,
    )
    if now == iteration and old_batch == batch:
        return
    logging.warning(
        f"vissl_swav: the checkpoint was written after {iteration} steps of "
        f"{old_batch} images, {old_steps} an epoch. Here a step has {batch} images and "
        f"an epoch {steps} steps: the run goes on after {phases} epochs and "
        f"{now - phases * steps} steps, as step {now + 1}."
    )
    checkpoint["iteration"] = task.iteration = now
    state["num_updates"] = now * batch


def _keep_options(task: Any, state: dict[str, Any]) -> None:
    saved = state.get("optimizer", {}).get("optim", {})
    groups = getattr(task.optimizer.optimizer, "param_groups", [])
    if not isinstance(saved, dict) or len(saved.get("param_groups", [])) != len(groups):
        return
    for old, now in zip(saved["param_groups"], groups, strict=True):
        # The rate is no option: the schedule sets it before each step.
        kept = {k: v for k, v in now.items() if k in old and k not in ("params", "lr")}
        old.update(kept)


def _hand_to_hooks(task: Any, state: dict[str, Any]) -> None:
    """Hooks that the checkpoint does not know begin anew."""
    states = state.get("hooks", {})
    for hook in task.hooks:
        if hook.name() in states:
            hook.set_classy_state(states[hook.name()])
