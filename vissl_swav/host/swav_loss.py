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

    The host saves rank 0's loss and hands it to every rank. A queue of another length
    or number of ranks, or none, does not fit: this run's starts empty, and the log says
    so; a queue that this run does not have is left out.
    """
    name = f"{prefix}swav.queue."
    saved = _saved_queues(state, prefix)
    for key in [key for key in state if key.startswith(name)]:
        del state[key]
    queue, ranks = module.swav.queue, collective()
    if queue is None:
        if saved:
            logging.warning("vissl_swav: the checkpoint's queue is not used here.")
        return
    wanted = (ranks.world_size, *queue.features.shape)
    found = tuple(saved["features"].shape) if saved else None
    if found != wanted:
        logging.warning(
            f"vissl_swav: the queue of this run is {wanted} (ranks, crops, rows, "
            f"dimension), the checkpoint's {found}: it starts empty and is used when "
            "full."
        )
    for key, value in queue.state_dict().items():
        fresh = torch.zeros_like(value)
        state[name + key] = saved[key][ranks.rank] if found == wanted else fresh


def _saved_queues(state: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    """Every rank's queue state, stacked (world, ...); empty if there was no queue."""
    name = f"{prefix}swav.queue."
    own = {k.removeprefix(name): v for k, v in state.items() if k.startswith(name)}
    alone = {key: value.unsqueeze(0) for key, value in own.items()}
    return state.get(f"{prefix}_extra_state") or alone
