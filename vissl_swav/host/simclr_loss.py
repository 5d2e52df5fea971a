"""Loss `simclr_multicrop`: the core's contrastive loss for the host."""

from collections.abc import Mapping, Sequence
from typing import Any

from classy_vision.losses import register_loss
from torch import Tensor, nn
from torch.nn.functional import normalize

from vissl_swav.backends.torch_collective import collective
from vissl_swav.core.precision import exact
from vissl_swav.core.resharding import State
from vissl_swav.core.simclr_multicrop import SimCLRMultiCrop
from vissl_swav.host import settings
from vissl_swav.host.ranked_loss import RankedLoss


@register_loss(settings.SIMCLR_MULTICROP)
class SimCLRMultiCropContrast(RankedLoss):
    """Takes embeddings (V * B, D), of any length: of `mlp` heads, or of `swav_head`.

    `swav_head` without prototypes (`num_clusters: []`) gives a list of the embeddings.
    The loss has no state: no tensor of it goes into a checkpoint.
    """

    def __init__(self, method: SimCLRMultiCrop):
        super().__init__()
        self.method = method

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "SimCLRMultiCropContrast":
        """From an inferred `LOSS.simclr_multicrop` (see `settings.infer`)."""
        arguments = settings.loss_arguments(settings.SIMCLR_MULTICROP, config)
        return cls(SimCLRMultiCrop(**arguments))

    def forward(self, output: Tensor | Sequence[Tensor], target: Tensor) -> Tensor:
        """The loss of a step."""
        embeddings = output if isinstance(output, Tensor) else output[0]
        return self.method(self.unit_rows(embeddings), collective=collective())

    @property
    def sharded(self) -> tuple[str, nn.Module | None]:
        """Nothing differs from rank to rank."""
        return "method", None

    def own_shard(self) -> State:
        """Nothing."""
        return {}

    def shard_for(self, shards: list[State], rank: int, world: int) -> State | None:
        """Nothing, of whatever was saved."""
        return None

    @staticmethod
    def unit_rows(embeddings: Tensor) -> Tensor:
        """What the loss compares: rows of length 1, float32 for halves."""
        return normalize(exact(embeddings), dim=1)
