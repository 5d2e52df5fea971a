"""Hook: the value of each term of a `weighted_sum`, as a mean over ranks."""

from typing import Any

from classy_vision.hooks.classy_hook import ClassyHook

from vissl_swav.host.task_view import TaskView


class TermsHook(ClassyHook):
    """Stands before the hooks that write figures or judge them."""

    on_start = ClassyHook._noop
    on_phase_start = ClassyHook._noop
    on_forward = ClassyHook._noop
    on_backward = ClassyHook._noop
    on_update = ClassyHook._noop
    on_step = ClassyHook._noop
    on_phase_end = ClassyHook._noop
    on_end = ClassyHook._noop

    def on_loss_and_meter(self, task: Any) -> None:
        """One small reduction a step."""
        TaskView(task).take_means_of_terms()
