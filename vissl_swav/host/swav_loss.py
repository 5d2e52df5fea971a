"""Losses `swav` and `swav_momentum`: the core's SwAV for the host."""

from collections.abc import Mapping, Sequence
from typing import Any

from classy_vision.losses import register_loss
from torch import Tensor, nn

from vissl_swav.backends.torch_collective import collective
from vissl_swav.core.resharding import State, queue_shard
from vissl_swav.core.scored_rows import ScoredRows
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
        self.queue_scores: list[Tensor] | list[list[ScoredRows]] | None = None

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


@register_loss(settings.SWAV_MOMENTUM)
class SwAVMomentumPrediction(SwAVSwappedPrediction):
    """SwAV whose codes, and queue, come from a momentum encoder.

    `encoder` is state of this loss: the host saves it with the rest, the same on every
    rank. The hook makes it, since a loss does not know the model (`momentum_hook`), and
    sets `code_output` before a step: what the encoder gives for the assignment crops.

    Args:
        swav: the core's.
        scores_by_encoder: codes come from the encoder's own prototypes; False: from
            those of the model that is trained.
    """

    def __init__(self, swav: SwAV, *, scores_by_encoder: bool = True):
        super().__init__(swav)
        self.scores_by_encoder = scores_by_encoder
        self.encoder: nn.Module | None = None
        self.code_output: list[Tensor] | None = None
        self.saved_encoder: State = {}
        self.register_load_state_dict_pre_hook(_keep_encoder)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "SwAVMomentumPrediction":
        """From an inferred `LOSS.swav_momentum`."""
        swav = SwAV(**settings.loss_arguments(settings.SWAV_MOMENTUM, config))
        return cls(swav, scores_by_encoder=config["momentum_prototypes"])

    @property
    def code_encoder(self) -> nn.Module | None:
        """The encoder whose prototypes give codes, where that is not the model."""
        return self.encoder if self.scores_by_encoder else None

    def forward(self, output: Sequence[Tensor], target: Tensor) -> Tensor:
        """The loss; a training step's momentum features enter the queue."""
        if self.code_output is None:
            raise RuntimeError(
                "the loss was not given a momentum encoder's output; a run through "
                "VISSL's trainer has vissl_swav's MomentumHook do it."
            )
        embeddings, *code_scores = self.code_output
        loss = self.swav(
            output[1:],
            code_scores=code_scores,
            queue_scores=self.queue_scores,
            collective=collective(),
        )
        if self.training:
            self.swav.finish_step(embeddings, of_assignment_crops=True)
        return loss


def _keep_encoder(
    loss: SwAVMomentumPrediction, state: dict[str, Any], prefix: str, *_: Any
) -> None:
    """A state is loaded before the hook makes the encoder: its part waits for that."""
    if loss.encoder is not None:
        return
    name = f"{prefix}encoder."
    of_encoder = [key for key in state if key.startswith(name)]
    loss.saved_encoder = {k.removeprefix(name): state.pop(k) for k in of_encoder}
