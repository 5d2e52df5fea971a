"""The only reader of cfg: `swav` for our parts, `run` for the checks before a run."""

from vissl_swav.host.settings.run import RunFacts, SplitFacts, identity, run_facts
from vissl_swav.host.settings.swav import (
    COLLATOR_NAME,
    LOSS_NAME,
    SWAV_KEYS,
    TRANSFORM_NAME,
    Schedule,
    infer,
    is_ours,
    loss_arguments,
    loss_bounds,
    nearest,
    num_crops,
    schedule,
    small_resnet,
    world_size,
)

__all__ = [
    "COLLATOR_NAME",
    "LOSS_NAME",
    "SWAV_KEYS",
    "TRANSFORM_NAME",
    "RunFacts",
    "Schedule",
    "SplitFacts",
    "identity",
    "infer",
    "is_ours",
    "loss_arguments",
    "loss_bounds",
    "nearest",
    "num_crops",
    "run_facts",
    "schedule",
    "small_resnet",
    "world_size",
]
