"""The only reach into a host task: our hooks see it through this.

What the loss of a step holds is in `loss_view`.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from vissl_swav.core.crops import CropLayout
from vissl_swav.host import settings

_NAN_CHECKS = ("LogLossMetricsCheckpointHook", "CheckNanModelOutputHook")


class TaskView:
    """Names for what our hooks need of a `SelfSupervisionTask`.

    Args:
        task: the host's task, prepared.
    """

    def __init__(self, task: Any):
        self._task = task

    @property
    def cfg(self) -> Any:
        """The run's config; hand it to `settings`, read nothing from it here."""
        return self._task.config

    @property
    def loss(self) -> Any:
        """The loss module; of a weighted sum the term that is ours."""
        return getattr(self._task.base_loss, "followed", self._task.base_loss)

    @property
    def is_training(self) -> bool:
        """Whether the current phase is a training phase."""
        return bool(self._task.train)

    @property
    def step(self) -> int:
        """Training steps finished since the start of the run."""
        return self._task.iteration

    @property
    def max_step(self) -> int:
        """Training steps of the whole run."""
        return self._task.max_iteration

    @property
    def epoch(self) -> int:
        """Training epochs finished before this one; 0 in the first."""
        return self._task.train_phase_idx

    @property
    def steps_per_epoch(self) -> int:
        """Training steps of an epoch on this rank."""
        return len(self._task.dataloaders["train"])

    @property
    def checkpoint_folder(self) -> str:
        """Where the run writes."""
        return self._task.checkpoint_folder

    @property
    def last_loss(self) -> float:
        """Loss of the last step, the mean over ranks."""
        return float(self._task.last_batch.loss)

    @property
    def followed_loss(self) -> float:
        """Likewise of `loss`: of a weighted sum the value of our term."""
        sum_of_terms = self._task.base_loss
        if hasattr(sum_of_terms, "followed"):
            return sum_of_terms.mean_followed
        return self.last_loss

    @property
    def terms(self) -> dict[str, float]:
        """Value of each term of a weighted sum, the mean over ranks; else empty."""
        return getattr(self._task.base_loss, "mean_values", {})

    def take_means_of_terms(self) -> None:
        """Of the step that is running; every rank must call it."""
        self._task.base_loss.take_means()

    @property
    def loss_is_finite(self) -> bool:
        """Of the mean over ranks, so the same on every rank."""
        return bool(torch.isfinite(self._task.last_batch.loss))

    @property
    def outputs(self) -> list[Tensor]:
        """Of the step: [embeddings, scores of head 0, head 1, ...] of this rank.

        A head without prototypes gives embeddings alone.
        """
        output = self._task.last_batch.model_output
        return [output] if isinstance(output, Tensor) else list(output)

    @property
    def crops(self) -> list[Tensor]:
        """The step's input, a tensor for each size of crop, or one in all."""
        images = self._task.last_batch.sample["input"]
        return list(images) if isinstance(images, (list, tuple)) else [images]

    def crops_of(self, layout: CropLayout) -> Tensor | list[Tensor]:
        """The step's assignment crops alone, in the form that the model takes."""
        images = self._task.last_batch.sample["input"]
        if isinstance(images, (list, tuple)):
            return [images[crop] for crop in layout.crops_for_assign]
        return layout.assignment_rows(images).flatten(0, 1)

    @property
    def learning_rate(self) -> float:
        """Learning rate of the first parameter group."""
        return self._task.optimizer.options_view.lr

    @property
    def wants_checkpoint_now(self) -> bool:
        """Whether the host writes a checkpoint in the on_step that is running."""
        frequency = settings.checkpoint_step_frequency(self._task.config)
        on_a_step = frequency > 0 and self._task.iteration % frequency == 0
        return self.is_training and on_a_step

    @property
    def wants_checkpoint_after_phase(self) -> bool:
        """Whether the host writes a checkpoint at the end of the phase that ends."""
        from vissl.utils.checkpoint import is_checkpoint_phase

        task = self._task
        phase, phases = task.train_phase_idx, task.num_train_phases
        frequency = settings.checkpoint_phase_frequency(task.config)
        is_last = phase == phases - 1
        return self.is_training and (
            is_last or is_checkpoint_phase(phase, frequency, phase, phases, "phase")
        )

    @property
    def can_resume_here(self) -> bool:
        """Whether a run could go on from a checkpoint written after this step."""
        if not self.is_training:
            return self.epoch >= 0
        sampler = getattr(self.train_loader, "sampler", None)
        return hasattr(sampler, "set_start_iter")

    def write_checkpoint(self) -> None:
        """The host's checkpoint, now; every rank must call it.

        Of a step in the middle of an epoch; in a test phase, of the end of the training
        phase before it.
        """
        from vissl.hooks.log_hooks import LogLossMetricsCheckpointHook

        task, kind = self._task, LogLossMetricsCheckpointHook
        writer = next(hook for hook in task.hooks if isinstance(hook, kind))
        if task.train:
            writer._checkpoint_model(
                task, mode_frequency=1, mode_num=task.iteration, mode="iteration"
            )
            return
        task.train, task.phase_idx = True, task.phase_idx - 1
        try:
            writer._checkpoint_model(
                task, mode_frequency=1, mode_num=task.train_phase_idx, mode="phase"
            )
        finally:
            task.train, task.phase_idx = False, task.phase_idx + 1

    @property
    def model(self) -> nn.Module:
        """The model as the host runs it, wrapped where there are several ranks."""
        return self._task.model

    @property
    def unwrapped(self) -> nn.Module:
        """The model without what DDP wraps around it."""
        return self._task.base_model

    @property
    def parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The model's, with their names; unwrapped from DDP."""
        return list(self._task.base_model.named_parameters())

    @property
    def modules(self) -> list[tuple[str, nn.Module]]:
        """The model's, with their names; unwrapped from DDP."""
        return list(self._task.base_model.named_modules())

    def run_again(self) -> None:
        """The model, unwrapped from DDP, on the step's crops; no gradient.

        With synchronised batch norm every rank must call it.
        """
        with torch.no_grad(), self.autocast():
            self._task.base_model(self._task.last_batch.sample["input"])

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

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision that the host's train step would compute in."""
        if self._task.amp_type is None:
            return nullcontext()
        from vissl_swav.compat.amp import autocast_context

        return autocast_context(self._task)

    @property
    def train_loader(self) -> Any:
        """The host's loader of training batches."""
        return self._task.dataloaders["train"]

    @property
    def batch_size(self) -> int:
        """Images of a training step, over all processes."""
        return int(self._task.datasets["train"].get_global_batchsize())

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._task.device

    @property
    def num_train_images(self) -> int:
        """Images of the training data, of all ranks."""
        return len(self._task.datasets["train"])

    @property
    def num_shards(self) -> int | None:
        """Tar files that the training images are streamed from; None for no stream."""
        sources = getattr(self._task.datasets["train"], "data_objs", [None])
        return getattr(sources[0], "num_shards", None)

    @property
    def processes_per_node(self) -> int:
        """Ranks of this run on a machine."""
        return settings.processes_per_node(self._task.config)

    @property
    def seconds_waited(self) -> float | None:
        """Time spent waiting for training data so far; None where it is not known."""
        return getattr(self.train_loader, "waited", None)

    def with_crops(self, batch: Any) -> Any:
        """A training batch with crops, where its loader leaves making them to us."""
        make = getattr(self.train_loader, "make_crops", None)
        return batch if make is None else make(batch)

    def restart_train_data(self) -> None:
        """A new pass over the training data, after one that was not the host's."""
        self._task.data_iterator = iter(self.train_loader)

    def on_device(self, tensor: Tensor) -> Tensor:
        """A copy where the model computes."""
        return tensor.to(self._task.device, non_blocking=True)

    def batch_images(self, num_crops: int) -> tuple[Tensor, Tensor]:
        """`images_of` the batch of the step that is running."""
        return self.images_of(self._task.last_batch.sample, num_crops)

    def images_of(self, batch: Any, num_crops: int) -> tuple[Tensor, Tensor]:
        """Image numbers (B,) of a crop-major batch, and which could be read (B,).

        The host hands on a grey image where a file cannot be read, and says so.
        """
        index, valid = (
            self.on_device(_first_rows(batch[key], num_crops))
            for key in ("data_idx", "data_valid")
        )
        return index, valid > 0

    def prototypes(self, model: nn.Module | None = None) -> list[nn.Parameter]:
        """Weights (K, D) of every prototype head, unwrapped from DDP.

        Args:
            model: a copy of the run's model; None for the model itself.
        """
        of_model: Any = self._task.base_model if model is None else model
        head: Any = of_model.heads[0]
        if isinstance(head, nn.Sequential):
            head = head[-1]
        return [
            getattr(head, f"prototypes{index}").weight
            for index in range(getattr(head, "nmb_heads", 0))
        ]

    def code_prototypes(self) -> list[nn.Parameter]:
        """The prototypes that give codes: a momentum encoder's where the loss says."""
        return self.prototypes(getattr(self.loss, "code_encoder", None))


def _nothing(task: Any) -> None:
    """A hook's event in which nothing is left to do."""


def _first_rows(rows: Any, num_crops: int) -> Tensor:
    """The rows of crop 0; the host wraps a value in a list, or does not."""
    tensor: Tensor = rows[0] if isinstance(rows, (list, tuple)) else rows
    return tensor[: tensor.shape[0] // num_crops]
