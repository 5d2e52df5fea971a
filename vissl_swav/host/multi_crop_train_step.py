"""Train step `multi_crop_train_step`: the host's, on crops made where the model is.

The workers decode, the step cuts and colours: `TRAINER.TRAIN_STEP_NAME` names it.
"""

from collections.abc import Iterator
from typing import Any

from vissl.trainer.train_steps import register_train_step
from vissl.trainer.train_steps.standard_train_step import standard_train_step

from vissl_swav.host import settings
from vissl_swav.host.task_view import TaskView


class _WithCrops(Iterator[Any]):
    def __init__(self, view: TaskView, batches: Iterator[Any]):
        self._view, self._batches = view, batches

    def __len__(self) -> int:
        """The host asks its iterator for the batches of an epoch."""
        return self._view.steps_per_epoch

    def __next__(self) -> Any:
        return self._view.with_crops(next(self._batches))


@register_train_step(settings.TRAIN_STEP_NAME)
def multi_crop_train_step(task: Any) -> Any:
    """The host's standard step; of a training batch's images the crops are made first.

    Images come as uint8 with sizes and keys (`multi_crop_collator`); each image's crops
    are drawn from its key.
    """
    if not task.train:
        return standard_train_step(task)
    batches = task.data_iterator
    task.data_iterator = _WithCrops(TaskView(task), batches)
    try:
        return standard_train_step(task)
    finally:
        task.data_iterator = batches
