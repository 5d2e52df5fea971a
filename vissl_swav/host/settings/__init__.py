"""The only reader of cfg: our `loss`, its `parts`, the `run` around it."""

from vissl_swav.host.settings.loss import (
    COLLATOR_NAME,
    clusters,
    infer,
    is_ours,
    loss_bounds,
    loss_settings,
    schedule,
    take_num_images,
    world_size,
)
from vissl_swav.host.settings.loss_checks import check_loss_key
from vissl_swav.host.settings.losses import (
    DEEPCLUSTER_V2,
    LOSSES,
    SELA_V2,
    SWAV,
    loss_arguments,
)
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
    checkpoint_phase_frequency,
    checkpoint_step_frequency,
    identity,
    num_epochs,
    run_facts,
    seed,
    storable,
    take_shape,
)
from vissl_swav.host.settings.schedule import Schedule

__all__ = [
    "COLLATOR_NAME",
    "DEEPCLUSTER_V2",
    "LOSSES",
    "SELA_V2",
    "SMALL_RESNET_DEPTHS",
    "SWAV",
    "TRANSFORM_NAME",
    "RunFacts",
    "Schedule",
    "SplitFacts",
    "batch_of_one_process",
    "check_loss_key",
    "checkpoint_phase_frequency",
    "checkpoint_step_frequency",
    "clusters",
    "identity",
    "infer",
    "is_ours",
    "loss_arguments",
    "loss_bounds",
    "loss_settings",
    "multi_crop",
    "nearest",
    "num_crops",
    "num_epochs",
    "run_facts",
    "schedule",
    "seed",
    "small_resnet",
    "storable",
    "take_num_images",
    "take_shape",
    "world_size",
]
