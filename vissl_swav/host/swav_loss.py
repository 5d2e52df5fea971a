"""Loss `swav`: the core's SwAV behind the host's loss interface."""

from collections.abc import Mapping, Sequence
from typing import Any

from classy_vision.losses import register_loss
from torch import Tensor, nn

from vissl_swav.backends.torch_collective import collective
from vissl_swav.core.resharding import State, queue_shard
from vissl_swav.core.swav import SwAV
from vissl_swav.host import settings
from vissl_swav.host.ranked_loss import RankedLoss


@register_loss(settings.SWAV)
class SwAVSwappedPrediction(RankedLoss):
    """Takes the output of `swav_head`: [embeddings, scores of head 0, head 1, ...].

    The hooks set `queue_scores` before a step.
    """

    def __init__(self, swav: SwAV):
        super().__init__()
        self.swav = swav
        self.queue_scores: list[Tensor] | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "SwAVSwappedPrediction":
        """From an inferred `LOSS.swav` (see `settings.infer`)."""
        return cls(SwAV(**settings.loss_arguments(settings.SWAV, config)))

    def forward(self, output: Sequence[Tensor], target: Tensor) -> Tensor:
        """The loss; a training step is counted and its features enter the queue."""
        embeddings, *scores = output
        loss = self.swav(
            scores, queue_scores=self.queue_scores, collective=collective()
        )
        if self.training:
            self.swav.finish_step(embeddings)
        return loss

    @property
    def sharded(self) -> tuple[str, nn.Module | None]:
        """Every rank has its own rows of the queue."""
        return "swav.queue", self.swav.queue

    def own_shard(self) -> State:
        """The queue's buffers."""
        return {} if self.swav.queue is None else self.swav.queue.state_dict()

    def shard_for(self, shards: list[State], rank: int, world: int) -> State | None:
        """The rank's queue; a queue of another length in all is not used."""
        assert self.swav.queue is not None
        mine = shards[rank] if len(shards) == world else None
        mine = mine or queue_shard(shards, rank, world)
        wanted = self.swav.queue.features.shape
        return mine if mine and mine["features"].shape == wanted else None
