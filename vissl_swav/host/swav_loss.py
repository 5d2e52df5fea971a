"""Loss `swav`: the core's SwAV behind the host's loss interface."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from classy_vision.losses import ClassyLoss, register_loss
from torch import Tensor

from vissl_swav.backends.torch_collective import collective
from vissl_swav.core.swav import SwAV
from vissl_swav.host import settings


@register_loss(settings.LOSS_NAME)
class SwAVSwappedPrediction(ClassyLoss):
    """Takes the output of `swav_head`: [embeddings, scores of head 0, head 1, ...].

    The hooks set `queue_scores` before a step and gather every rank's queue before a
    checkpoint, since the host saves the loss of rank 0 alone.
    """

    def __init__(self, swav: SwAV):
        super().__init__()
        self.swav = swav
        self.queue_scores: list[Tensor] | None = None
        self._all_queues: dict[str, Tensor] = {}
        self.register_load_state_dict_pre_hook(_take_own_queue)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "SwAVSwappedPrediction":
        """From an inferred `LOSS.swav` (see `settings.infer`)."""
        return cls(SwAV(**settings.loss_arguments(config)))

    def forward(self, output: Sequence[Tensor], target: Tensor) -> Tensor:
        """The loss; a training step is counted and its features enter the queue."""
        embeddings, *scores = output
        loss = self.swav(
            scores, queue_scores=self.queue_scores, collective=collective()
        )
        if self.training:
            self.swav.finish_step(embeddings)
        return loss

    def gather_queues(self) -> None:
        """Collects all ranks' queues for the state dict; every rank must call it."""
        ranks = collective()
        if self.swav.queue is None or ranks.world_size == 1:
            return
        self._all_queues = {
            name: ranks.all_gather(value).cpu()
            for name, value in self.swav.queue.state_dict().items()
        }

    def get_extra_state(self) -> dict[str, Tensor]:
        """Queue state of every rank, stacked (world, ...); empty with one rank."""
        return self._all_queues

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Nothing: `_take_own_queue` has put this rank's rows in place."""


def _take_own_queue(
    module: SwAVSwappedPrediction, state: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Replaces rank 0's queue in a loaded state by this rank's own.

    The host saves rank 0's loss and hands it to every rank. A queue saved by another
    number of ranks does not fit: it starts empty, which the log says.
    """
    queue = module.swav.queue
    if queue is None:
        return
    saved = state.get(f"{prefix}_extra_state") or {}
    ranks = collective().world_size
    own = torch.distributed.get_rank() if ranks > 1 else 0
    saved_ranks = len(saved["features"]) if saved else 1
    name = f"{prefix}swav.queue."
    fits = saved_ranks == ranks and (
        state[f"{name}features"].shape == queue.features.shape
    )
    if not fits:
        logging.warning(
            f"vissl_swav: the checkpoint's queue is of {saved_ranks} ranks and shape "
            f"{tuple(state[f'{name}features'].shape)} a rank, this run's of {ranks} "
            "and "
            f"{tuple(queue.features.shape)}: it starts empty and is used when full."
        )
    for key, value in queue.state_dict().items():
        if not fits:
            state[name + key] = torch.zeros_like(value)
        elif saved:
            state[name + key] = saved[key][own]
