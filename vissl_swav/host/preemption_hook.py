"""Hook: after SIGTERM a checkpoint at the next step, and an exit code for requeue."""

import logging
from typing import Any

import torch
from classy_vision.hooks.classy_hook import ClassyHook
from torch import Tensor

from vissl_swav.backends.torch_collective import collective
from vissl_swav.host import preemption
from vissl_swav.host.task_view import TaskView


class PreemptionHook(ClassyHook):
    """All ranks agree on the step, write, and exit with `preemption.EXIT_CODE`.

    In each step the ranks reduce one number: whether any has had the signal. The
    result is read a step later, when it has long been there, so that no GPU is waited
    for. It must be the last of our hooks: the others have then done what belongs to
    the step.
    """

    on_phase_start = ClassyHook._noop
    on_forward = ClassyHook._noop
    on_loss_and_meter = ClassyHook._noop
    on_backward = ClassyHook._noop
    on_update = ClassyHook._noop
    on_phase_end = ClassyHook._noop
    on_end = ClassyHook._noop

    def __init__(self) -> None:
        super().__init__()
        # Hooks are made before the loaders, whose workers inherit the signal's mask.
        self._notice = preemption.listen()
        self._asked: Tensor | None = None

    def on_start(self, task: Any) -> None:
        """Says how long there will be."""
        logging.info(
            f"SIGTERM: a checkpoint at the next step within {self._notice.seconds:g} s "
            f"and exit code {preemption.EXIT_CODE}"
        )

    def on_step(self, task: Any) -> None:
        """Leaves the run where a rank had the signal a step ago.

        Raises:
            SystemExit: with `preemption.EXIT_CODE`, on every rank.
        """
        view = TaskView(task)
        answer = self._asked
        given = torch.full((1,), int(self._notice.given), device=view.device)
        self._asked = collective().all_reduce_max(given)
        if answer is not None and int(answer) > 0:
            self._write(view)
            # No rank is gone while another one still needs it.
            int(collective().all_reduce_max(given))
            raise SystemExit(preemption.EXIT_CODE)

    @staticmethod
    def _write(view: TaskView) -> None:
        if not view.can_resume_here:
            logging.warning(
                "SIGTERM: the run ends here and resumes from the checkpoint before: "
                "this run's sampler cannot start in the middle of an epoch"
            )
            return
        view.loss.gather_shards()
        view.write_checkpoint()
        if collective().rank == 0:
            logging.warning(
                f"SIGTERM: the checkpoint of step {view.step} is written; the same "
                f"command goes on from it. Exit code {preemption.EXIT_CODE}."
            )
