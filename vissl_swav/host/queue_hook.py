"""Hook: scores the queue with today's prototypes; gathers it for checkpoints."""

from typing import Any

from classy_vision.hooks.classy_hook import ClassyHook

from vissl_swav.host import settings
from vissl_swav.host.task_view import TaskView


class QueueHook(ClassyHook):
    """Rescores; features are stored by the loss itself (`core.feature_queue`)."""

    on_loss_and_meter = ClassyHook._noop
    on_backward = ClassyHook._noop
    on_update = ClassyHook._noop
    on_end = ClassyHook._noop

    def on_start(self, task: Any) -> None:
        """The start of filling, in steps."""
        view = TaskView(task)
        start = settings.schedule(view.cfg).queue_start(view.steps_per_epoch)
        view.loss.swav.queue_start_step = start

    def on_phase_start(self, task: Any) -> None:
        """Only training phases count steps and fill the queue."""
        view = TaskView(task)
        view.loss.train(view.is_training)
        view.loss.forget_shards()

    def on_forward(self, task: Any) -> None:
        """Scores all rows of a full queue; a queue that is not full is not used."""
        view = TaskView(task)
        view.loss.queue_scores = view.loss.swav.score_queue(view.code_prototypes())

    def on_step(self, task: Any) -> None:
        """Before the host's checkpoint in mid-epoch: every rank's queue goes along."""
        view = TaskView(task)
        if view.wants_checkpoint_now:
            view.loss.gather_shards()

    def on_phase_end(self, task: Any) -> None:
        """Before the host's checkpoint at the end of a phase, likewise."""
        view = TaskView(task)
        if view.wants_checkpoint_after_phase:
            view.loss.gather_shards()
