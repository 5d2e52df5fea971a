"""What the loss of the step that is running holds."""

from typing import Any

import torch
from torch import Tensor

from vissl_swav.core.collective import Collective
from vissl_swav.core.crops import CropLayout
from vissl_swav.core.feature_queue import FeatureQueue
from vissl_swav.core.scored_rows import ScoredRows
from vissl_swav.core.sinkhorn import balanced_codes
from vissl_swav.core.swav import SwAV
from vissl_swav.host.task_view import TaskView


class LossView:
    """One of our losses, and the model's outputs that it has just seen.

    Args:
        view: of the task whose step is running.
    """

    def __init__(self, view: TaskView):
        self._loss = view.loss
        embeddings, *scores = view.outputs
        # As the loss takes them: one without prototypes makes unit rows itself.
        unit_rows = getattr(view.loss, "unit_rows", lambda rows: rows)
        self.outputs: list[Tensor] = [unit_rows(embeddings), *scores]

    @property
    def layout(self) -> CropLayout:
        """How the crops lie in the outputs."""
        return self._method.layout

    @property
    def num_samples(self) -> int:
        """B of this rank."""
        return self.layout.num_samples(self.outputs[0])

    @property
    def labels(self) -> Tensor | None:
        """Head 0's labels of the samples that have one; None where codes are soft."""
        images = getattr(self._loss, "images", None)
        if images is None:
            return None
        labels, weights = self._method.labels.of(images)
        return labels[0, :, 0][weights[0, :, 0] > 0]

    @property
    def queue(self) -> FeatureQueue | None:
        """The queue of features of this rank, where the loss has one."""
        return getattr(self._method, "queue", None)

    @property
    def queue_in_use(self) -> bool:
        """Whether the step's codes were found with the queue; equal on all ranks."""
        return getattr(self._loss, "queue_scores", None) is not None

    @property
    def code_output(self) -> list[Tensor]:
        """What a momentum encoder gave for the assignment crops; empty without one."""
        return getattr(self._loss, "code_output", None) or []

    @property
    def code_features(self) -> Tensor:
        """Z (B, D) of the first assignment crop, by the encoder that gives codes."""
        return self._of_first_crop(0)

    def codes(self, collective: Collective) -> Tensor | None:
        """Q (B, K) of the first assignment crop and head, as the loss found them.

        None where labels take the place of codes.
        """
        method = self._method
        if not isinstance(method, SwAV):
            return None
        rows, more = self._of_first_crop(1), []
        if self.queue_in_use:
            queue = self._loss.queue_scores[0][0]
            if isinstance(queue, ScoredRows):
                more = [queue]
            else:
                rows = torch.cat([rows, queue.to(rows.dtype)])
        codes, _ = balanced_codes(
            [rows],
            epsilon=method.epsilon,
            num_iterations=method.num_iterations,
            hard=method.hard_codes,
            collective=collective,
            more_rows=more,
        )
        return codes[0][: self.num_samples]

    def _of_first_crop(self, output: int) -> Tensor:
        """Rows of the first assignment crop of an output that gives codes."""
        if self.code_output:
            # The encoder has seen the assignment crops alone.
            return self.code_output[output].detach()[: self.num_samples]
        of_crops = self.layout.split(self.outputs[output].detach())
        return of_crops[self.layout.crops_for_assign[0]]

    @property
    def _method(self) -> Any:
        """The core's module behind the loss."""
        loss = self._loss
        return loss.swav if hasattr(loss, "swav") else loss.method
