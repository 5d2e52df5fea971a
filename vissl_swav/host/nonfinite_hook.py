"""Hook: names the first tensor of a step that is not finite, and ends the run.

It comes before the host's own check, which says that the loss is not finite.
"""

import logging
from typing import Any

import torch
from classy_vision.hooks.classy_hook import ClassyHook
from torch import Tensor, nn

from vissl_swav.health import nonfinite
from vissl_swav.health.errors import NotFinite
from vissl_swav.host.nonfinite_search import explain, where
from vissl_swav.host.task_view import TaskView

MAX_SKIPPED = 20
"""Steps in a row that a GradScaler may skip: it starts at 2^16 and halves each time."""


class NonFiniteHook(ClassyHook):
    """A loss that is not finite ends the run; a gradient too, unless it is scaled.

    A scaled gradient that overflows makes the host's GradScaler skip the step. After
    the mean over ranks the gradient is the same everywhere, so all ranks skip alike,
    and stop alike after `MAX_SKIPPED` steps in a row. A loss that is not finite has
    left its marks in the batch norm and the queue: no skip mends that.

    On a device the gradient of a step is looked at in the next one, or before a
    checkpoint, so that no step waits for it.
    """

    on_phase_start = ClassyHook._noop
    on_forward = ClassyHook._noop
    on_update = ClassyHook._noop
    on_end = ClassyHook._noop

    def __init__(self) -> None:
        super().__init__()
        self._norms: tuple[list[str], Tensor, int] | None = None
        self._parameters: list[tuple[str, nn.Parameter]] = []
        self._skipped = 0

    def on_start(self, task: Any) -> None:
        """The host's checks come earlier in a step than ours and do harm."""
        view = TaskView(task)
        view.take_over_nan_checks()
        self._parameters = view.parameters

    def on_loss_and_meter(self, task: Any) -> None:
        """Raises where the loss, a mean over ranks, is not finite.

        Raises:
            NotFinite: names tensor, rank, step, learning rate and scale.
        """
        view = TaskView(task)
        self._look_at_gradients(view)
        # Equal on all ranks: they get here together, and may talk to each other.
        if not view.loss_is_finite:
            raise NotFinite(explain(view))

    def on_backward(self, task: Any) -> None:
        """Takes the length of every gradient."""
        view = TaskView(task)
        named = [(n, p.grad) for n, p in self._parameters if p.grad is not None]
        if not named:
            return
        names, gradients = [n for n, _ in named], [g for _, g in named]
        self._norms = names, nonfinite.gradient_norms(gradients), view.step
        if self.waits_for_gradients(view):
            self._look_at_gradients(view)

    def on_step(self, task: Any) -> None:
        """Before a checkpoint: never one with weights of a bad gradient."""
        view = TaskView(task)
        if view.wants_checkpoint_now:
            self._look_at_gradients(view)

    def on_phase_end(self, task: Any) -> None:
        """Likewise at the end of an epoch."""
        self._look_at_gradients(TaskView(task))

    def waits_for_gradients(self, view: TaskView) -> bool:
        """Whether looking at a gradient at once costs nothing."""
        return view.device.type == "cpu"

    def _look_at_gradients(self, view: TaskView) -> None:
        if self._norms is None:
            return
        names, norms, step = self._norms
        self._norms = None
        finite = torch.isfinite(norms)
        if bool(finite.all()):
            self._skipped = 0
            return
        bad = [
            name for name, fine in zip(names, finite.tolist(), strict=True) if not fine
        ]
        # In the order of the backward pass: the last parameter comes first.
        what = (
            f"the gradient of {bad[-1]} is not finite (of {len(bad)} of {len(names)} "
            f"parameters){where(view, step)}"
        )
        if view.scaler is None:
            raise NotFinite(
                f"{what}. The loss of that step was finite. Remedies in order: a lower "
                "learning rate; gradient clipping (config.MODEL.GRAD_CLIP); larger "
                "temperature. The last checkpoint holds finite weights."
            )
        self._skipped += 1
        if self._skipped > MAX_SKIPPED:
            raise NotFinite(
                f"{what}, for {self._skipped} steps in a row, each of which was "
                "skipped. A smaller loss scale does not help, so it is no overflow of "
                "float16: try config.MODEL.AMP_PARAMS.AMP_DTYPE=bfloat16 or "
                "USE_AMP=false, then a lower learning rate."
            )
        logging.info(f"vissl_swav: {what}: the step is skipped, the scale halved.")
