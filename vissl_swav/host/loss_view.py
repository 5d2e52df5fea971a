"""What the loss of the step that is running holds."""

from typing import Any

import torch
from torch import Tensor

from vissl_swav.core.crops import CropLayout
from vissl_swav.core.feature_queue import FeatureQueue
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

    def sinkhorn_problem(self) -> tuple[Tensor, dict[str, Any]] | None:
        """Scores (B + L, K) of the first assignment crop and head, and the settings.

        None where labels take the place of codes.
        """
        method = self._method
        if not isinstance(method, SwAV):
            return None
        scores = self.layout.split(self.outputs[1].detach())
        rows = scores[self.layout.crops_for_assign[0]]
        if self.queue_in_use:
            rows = torch.cat([rows, self._loss.queue_scores[0][0].to(rows.dtype)])
        return rows, {
            "epsilon": method.epsilon,
            "num_iterations": method.num_iterations,
            "hard": method.hard_codes,
        }

    @property
    def _method(self) -> Any:
        """The core's module behind the loss."""
        loss = self._loss
        return loss.swav if hasattr(loss, "swav") else loss.method
