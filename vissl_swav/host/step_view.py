"""What our checks of a running step need of the task, beside `TaskView`."""

from typing import Any

import torch
from torch import Tensor, nn

from vissl_swav.core.crops import CropLayout
from vissl_swav.core.feature_queue import FeatureQueue
from vissl_swav.core.swav import SwAV
from vissl_swav.host.task_view import TaskView

_NAN_CHECKS = ("LogLossMetricsCheckpointHook", "CheckNanModelOutputHook")


class StepView(TaskView):
    """The tensors of the step that is running, and where figures of it go."""

    @property
    def outputs(self) -> list[Tensor]:
        """[embeddings, scores of head 0, head 1, ...] of this rank."""
        return list(self._task.last_batch.model_output)

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
        images = getattr(self.loss, "images", None)
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
        return getattr(self.loss, "queue_scores", None) is not None

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
            rows = torch.cat([rows, self.loss.queue_scores[0][0].to(rows.dtype)])
        return rows, {
            "epsilon": method.epsilon,
            "num_iterations": method.num_iterations,
            "hard": method.hard_codes,
        }

    @property
    def _method(self) -> Any:
        """The core's module behind the loss."""
        loss = self.loss
        return loss.swav if hasattr(loss, "swav") else loss.method

    @property
    def crops(self) -> list[Tensor]:
        """The input of the model, a tensor for each size of crop, or one in all."""
        images = self._task.last_batch.sample["input"]
        return list(images) if isinstance(images, (list, tuple)) else [images]

    @property
    def loss_is_finite(self) -> bool:
        """Of the mean over ranks, so the same on every rank."""
        return bool(torch.isfinite(self._task.last_batch.loss))

    @property
    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The model's, with their names; unwrapped from DDP."""
        return list(self._task.base_model.named_parameters())

    @property
    def scaler(self) -> Any:
        """The GradScaler of mixed precision; None where nothing is scaled."""
        scaler = getattr(self._task, "amp_grad_scaler", None)
        return scaler if scaler is not None and scaler.is_enabled() else None

    @property
    def tensorboard(self) -> Any:
        """The writer of the host's TensorBoard hook; None where there is none."""
        writers = (getattr(hook, "tb_writer", None) for hook in self._task.hooks)
        return next((writer for writer in writers if writer is not None), None)

    def take_over_nan_checks(self) -> None:
        """Ends the host's own look at each output of the model.

        It writes a checkpoint of the ruined weights for the next resume to find
        (`hooks/log_hooks.py`), or dies looking for a method (`CheckNanModelOutputHook`,
        `hooks/state_update_hooks.py`), each rank by itself.
        """
        for hook in self._task.hooks:
            if type(hook).__name__ in _NAN_CHECKS:
                hook.on_forward = _nothing

    def first_bad_module(self) -> str | None:
        """Runs the step's crops again; the first module whose output is not finite.

        With synchronised batch norm every rank must call it.
        """
        found: list[str] = []
        handles = [
            module.register_forward_hook(_finder(name, found))
            for name, module in self._task.base_model.named_modules()
            if name and not list(module.children())
        ]
        try:
            with torch.no_grad(), self.autocast():
                self._task.base_model(self._task.last_batch.sample["input"])
        finally:
            for handle in handles:
                handle.remove()
        return found[0] if found else None


def _nothing(task: Any) -> None:
    """A hook's event in which nothing is left to do."""


def _finder(name: str, found: list[str]) -> Any:
    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        tensors = [output] if isinstance(output, Tensor) else []
        if isinstance(output, (list, tuple)):
            tensors = [item for item in output if isinstance(item, Tensor)]
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
            found.append(name)

    return look
