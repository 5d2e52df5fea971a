"""What the plan of a run needs to know of its config, beyond `RunFacts`."""

from dataclasses import dataclass
from typing import Any

from vissl_swav.health.plan import Contrast
from vissl_swav.host.settings import parts
from vissl_swav.host.settings.data import multi_crop_entry
from vissl_swav.host.settings.learning_rate import highest_rate
from vissl_swav.host.settings.loss import contrast, loss_settings
from vissl_swav.host.settings.sums import followed_loss

# Trunks whose last features stand 32 pixels apart; the host's ResNets can do with 16.
_STRIDE_32 = ("resnet", "efficientnet", "regnet", "regnet_v2", "regnet_fsdp")
_SMALL_STRIDE = 8


@dataclass(frozen=True)
class PlanFacts:
    """Names and numbers of a run with a loss of ours.

    Attributes:
        method: name of the loss.
        crop_sizes: edges in pixels; empty where they are not known.
        trunk_stride: pixels between the trunk's last features, None where not known.
        optimizer: its name.
        uses_larc: whether LARC scales its steps.
        momentum: of SGD.
        learning_rate: the highest of the run, None where not known.
        num_crops: crops of an image.
        queue_length: rows over all ranks.
        soft_codes: whether codes are distributions during the whole run.
        contrast: what a loss without prototypes compares; None with prototypes.
    """

    method: str
    crop_sizes: tuple[int, ...]
    trunk_stride: int | None
    optimizer: str
    uses_larc: bool
    momentum: float
    learning_rate: float | None
    num_crops: int
    queue_length: int
    soft_codes: bool
    contrast: Contrast | None


def plan_facts(cfg: Any) -> PlanFacts:
    """From an inferred config whose loss is ours."""
    loss = loss_settings(cfg)
    optimizer = cfg.OPTIMIZER
    hard = loss.get("hard_codes") or loss.get("hard_codes_steps")
    return PlanFacts(
        method=followed_loss(cfg),
        crop_sizes=_crop_sizes(cfg),
        trunk_stride=_trunk_stride(cfg),
        optimizer=optimizer.name,
        uses_larc=bool(optimizer.use_larc),
        momentum=optimizer.momentum,
        learning_rate=highest_rate(cfg),
        num_crops=loss["num_crops"],
        queue_length=loss.get("queue_length", 0),
        soft_codes="hard_codes" in loss and not hard,
        contrast=contrast(cfg),
    )


def _crop_sizes(cfg: Any) -> tuple[int, ...]:
    entry = multi_crop_entry(cfg, "TRAIN")
    for transform in [entry] if entry else cfg.DATA.TRAIN.TRANSFORMS:
        if transform["name"] in (parts.TRANSFORM_NAME, "ImgPilToMultiCrop"):
            return tuple(transform["size_crops"])
    return ()


def _trunk_stride(cfg: Any) -> int | None:
    trunk = cfg.MODEL.TRUNK
    if trunk.NAME == "resnet_small":
        return _SMALL_STRIDE
    if trunk.NAME not in _STRIDE_32:
        return None
    last = trunk.RESNETS.get("LAYER4_STRIDE", 2) if trunk.NAME == "resnet" else 2
    return 16 * last
