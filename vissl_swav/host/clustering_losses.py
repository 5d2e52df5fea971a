"""Losses `deepcluster_v2` and `sela_v2`: the core's cycle for the host."""

from collections.abc import Mapping, Sequence
from typing import Any

from classy_vision.losses import register_loss
from torch import Tensor, nn

from vissl_swav.backends.torch_collective import collective
from vissl_swav.core.deepcluster_v2 import DeepClusterV2
from vissl_swav.core.offline_clustering import OfflineClustering
from vissl_swav.core.resharding import State, bank_shard
from vissl_swav.core.sela_v2 import SeLaV2
from vissl_swav.host import settings
from vissl_swav.host.ranked_loss import RankedLoss


class ClusterPrediction(RankedLoss):
    """Takes the output of `swav_head`: [embeddings, scores of head 0, head 1, ...].

    The hook sets `images` (B,), the batch's image numbers, and `valid` (B,), which of
    them could be read, before a step.
    """

    def __init__(self, method: OfflineClustering):
        super().__init__()
        self.method = method
        self.images: Tensor | None = None
        self.valid: Tensor | None = None
        self.register_load_state_dict_pre_hook(_check_images)

    def forward(self, output: Sequence[Tensor], target: Tensor) -> Tensor:
        """The loss; a training step's features enter the bank."""
        if self.images is None:
            raise RuntimeError(
                "the loss was not told which images the batch holds; a run through "
                "VISSL's trainer has vissl_swav's ClusteringHook do it."
            )
        embeddings, *scores = output
        loss = self.method(scores, self.images, self.valid, collective=collective())
        if self.training:
            self.method.remember(embeddings, self.images, self.valid)
        return loss

    @property
    def sharded(self) -> tuple[str, nn.Module | None]:
        """Every rank has its own images in the bank."""
        return "method.bank", self.method.bank

    def own_shard(self) -> State:
        """The rows of the bank that are in use."""
        return self.method.bank.in_use()

    def shard_for(self, shards: list[State], rank: int, world: int) -> State | None:
        """The rank's images; other numbers of ranks deal them out anew."""
        if len(shards) == world:
            return shards[rank]
        return bank_shard(shards, rank, world)


@register_loss(settings.DEEPCLUSTER_V2)
class DeepClusterV2Prediction(ClusterPrediction):
    """DeepCluster-v2."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "DeepClusterV2Prediction":
        """From an inferred `LOSS.deepcluster_v2`."""
        arguments = settings.loss_arguments(settings.DEEPCLUSTER_V2, config)
        return cls(DeepClusterV2(**arguments))


@register_loss(settings.SELA_V2)
class SeLaV2Prediction(ClusterPrediction):
    """SeLa-v2."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "SeLaV2Prediction":
        """From an inferred `LOSS.sela_v2`."""
        return cls(SeLaV2(**settings.loss_arguments(settings.SELA_V2, config)))


def _check_images(
    loss: ClusterPrediction, state: dict[str, Any], prefix: str, *_: Any
) -> None:
    """Labels are by image number: they mean nothing for another set of images."""
    saved, own = state.get(f"{prefix}method.labels.labels"), loss.method.labels.labels
    if saved is None:
        return
    if not isinstance(saved, Tensor) or saved.ndim != own.ndim:
        raise ValueError(
            f"the checkpoint's labels are no tensor of {own.ndim} dimensions but "
            f"{type(saved).__name__} {tuple(getattr(saved, 'shape', ()))}; the file is "
            "damaged or not of this program: take another checkpoint of the run."
        )
    if saved.shape[1] != own.shape[1]:
        raise ValueError(
            f"the checkpoint's labels are of {saved.shape[1]} images, and the training "
            f"data has {own.shape[1]}; resume with the data of that run, or start "
            "anew in another CHECKPOINT.DIR (MODEL.WEIGHTS_INIT takes weights along)."
        )
