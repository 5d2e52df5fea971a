"""The only reader of cfg: our loss (`swav`), its `parts`, the `run` around it."""

from vissl_swav.host.settings.parts import (
    SMALL_RESNET_DEPTHS,
    TRANSFORM_NAME,
    multi_crop,
    nearest,
    num_crops,
    small_resnet,
)
from vissl_swav.host.settings.run import (
    RunFacts,
    SplitFacts,
    batch_of_one_process,
    checkpoint_step_frequency,
    identity,
    run_facts,
    storable,
    take_shape,
)
from vissl_swav.host.settings.swav import (
    COLLATOR_NAME,
    LOSS_NAME,
    SWAV_KEYS,
    Schedule,
    infer,
    is_ours,
    loss_arguments,
    loss_bounds,
    schedule,
    world_size,
)

__all__ = [
    "COLLATOR_NAME",
    "LOSS_NAME",
    "SMALL_RESNET_DEPTHS",
    "SWAV_KEYS",
    "TRANSFORM_NAME",
    "RunFacts",
    "Schedule",
    "SplitFacts",
    "batch_of_one_process",
    "checkpoint_step_frequency",
    "identity",
    "infer",
    "is_ours",
    "loss_arguments",
    "loss_bounds",
    "multi_crop",
    "nearest",
    "num_crops",
    "run_facts",
    "schedule",
    "small_resnet",
    "storable",
    "take_shape",
    "world_size",
]
