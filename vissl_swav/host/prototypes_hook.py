"""Hook: unit rows before every forward, no gradient while frozen."""

import logging
from typing import Any

from classy_vision.generic.distributed_util import is_primary
from classy_vision.hooks.classy_hook import ClassyHook

from vissl_swav.core.prototypes import normalize_rows_
from vissl_swav.host import settings
from vissl_swav.host.task_view import TaskView


class PrototypesHook(ClassyHook):
    """Normalises at the start and after every update; freezes by epochs or steps."""

    on_phase_start = ClassyHook._noop
    on_forward = ClassyHook._noop
    on_loss_and_meter = ClassyHook._noop
    on_step = ClassyHook._noop
    on_phase_end = ClassyHook._noop
    on_end = ClassyHook._noop

    def __init__(self) -> None:
        super().__init__()
        self._freeze_steps = 0.0

    def on_start(self, task: Any) -> None:
        """Also the first forward pass gets unit rows."""
        view = TaskView(task)
        self._freeze_steps = settings.schedule(view.cfg).freeze_steps(
            view.steps_per_epoch
        )
        # `vissl-swav train` refuses it before the start; other command lines do not.
        if view.max_step <= self._freeze_steps < float("inf") and is_primary():
            logging.warning(
                f"vissl_swav: PROTOTYPES NEVER THAW. They are frozen for "
                f"{self._freeze_steps:.0f} steps, and the run has {view.max_step}. Set "
                "freeze_prototypes_steps, below config.LOSS, to fewer steps and "
                "freeze_prototypes_epochs to null."
            )
        self._normalize(view)

    def on_backward(self, task: Any) -> None:
        """Frozen: the optimiser sees no gradient, so not even weight decay acts."""
        view = TaskView(task)
        if view.step < self._freeze_steps:
            for weight in view.prototypes():
                weight.grad = None

    def on_update(self, task: Any) -> None:
        """Puts the rows back to unit length."""
        self._normalize(TaskView(task))

    @staticmethod
    def _normalize(view: TaskView) -> None:
        for weight in view.prototypes():
            normalize_rows_(weight)
