"""Hook: the momentum encoder of `swav_momentum`.

It is a copy of the model, head and prototypes included, made when the run starts and
held by the loss, so that the host saves it with the loss. DDP does not wrap it: it has
no gradient, and every rank takes the same steps from the same weights.
"""

import logging
from typing import Any

import torch
from classy_vision.hooks.classy_hook import ClassyHook
from torch import Tensor, nn

from vissl_swav.backends.torch_collective import collective
from vissl_swav.core.momentum import momentum_copy, update_momentum_
from vissl_swav.core.prototypes import normalize_rows_
from vissl_swav.host import settings
from vissl_swav.host.task_view import TaskView


class MomentumHook(ClassyHook):
    """Makes, runs and updates the encoder; stands after `PrototypesHook`.

    Its BatchNorm layers work as the model's do: on the batch in training, and with
    running statistics of its own in test phases, where nothing of it changes.
    """

    on_phase_start = ClassyHook._noop
    on_loss_and_meter = ClassyHook._noop
    on_backward = ClassyHook._noop
    on_step = ClassyHook._noop
    on_end = ClassyHook._noop

    def on_start(self, task: Any) -> None:
        """A copy of the model, or the encoder that a checkpoint brought along."""
        view = TaskView(task)
        encoder = momentum_copy(view.unwrapped)
        if view.loss.saved_encoder:
            encoder.load_state_dict(view.loss.saved_encoder)
            view.loss.saved_encoder = {}
            logging.info("vissl_swav: the momentum encoder goes on from the checkpoint")
        view.loss.encoder = encoder

    def on_forward(self, task: Any) -> None:
        """The assignment crops through the encoder, in the step's own precision."""
        view = TaskView(task)
        loss, encoder = view.loss, view.loss.encoder
        encoder.train(view.is_training)
        crops = view.crops_of(loss.swav.layout)
        with torch.no_grad():
            embeddings, *scores = _outputs(encoder(crops))
            if not loss.scores_by_encoder:
                weights = view.prototypes()
                scores = [nn.functional.linear(embeddings, C) for C in weights]
        loss.code_output = [embeddings, *scores]

    def on_update(self, task: Any) -> None:
        """The encoder follows; its prototypes keep unit rows."""
        view = TaskView(task)
        encoder, swav = view.loss.encoder, view.loss.swav
        momentum = settings.schedule(view.cfg).momentum_of(
            swav.steps_finished - 1, view.max_step
        )
        update_momentum_(encoder.parameters(), view.unwrapped.parameters(), momentum)
        for weight in view.prototypes(encoder):
            normalize_rows_(weight)

    def on_phase_end(self, task: Any) -> None:
        """Running statistics without SyncBN are the ranks' own: rank 0's for all.

        They are what a checkpoint holds, as those of the model are.
        """
        view = TaskView(task)
        if view.is_training and collective().world_size > 1:
            for buffer in view.loss.encoder.buffers():
                buffer.copy_(collective().all_gather(buffer)[0])


def _outputs(output: Any) -> list[Tensor]:
    """[embeddings, scores of head 0, ...]; one head's stand in a list of one."""
    return list(output[0] if len(output) == 1 else output)
