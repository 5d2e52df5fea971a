"""Joins our parts to the host, each as soon as the host module it extends is there.

`arm()` imports nothing of the host. Importing a file below registers its part, since
the host's registries are filled by decorators.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from vissl_swav import compat
from vissl_swav.compat.import_hook import after_import
from vissl_swav.compat.startup import is_switched_off
from vissl_swav.host import preemption

# Host module -> our file that registers something there.
_REGISTERED = (
    ("classy_vision.losses", "vissl_swav.host.swav_loss"),
    ("classy_vision.losses", "vissl_swav.host.clustering_losses"),
    ("classy_vision.losses", "vissl_swav.host.simclr_loss"),
    ("classy_vision.losses", "vissl_swav.host.dino_sinkhorn_loss"),
    ("classy_vision.losses", "vissl_swav.host.weighted_sum_loss"),
    ("classy_vision.dataset.transforms", "vissl_swav.host.multi_crop_transform"),
    ("vissl.data.collators", "vissl_swav.host.multi_crop_collator"),
    ("vissl.models.trunks", "vissl_swav.host.resnet_small"),
    ("vissl.trainer.train_steps", "vissl_swav.host.multi_crop_train_step"),
)


def arm() -> None:
    """Makes the host know our parts in this process; idempotent."""
    compat.apply()
    for host_module, ours in _REGISTERED:
        after_import(host_module, _importer(ours), key=ours)
    for host_module, patch in (
        ("vissl.hooks", _join_hooks),
        ("vissl.data.ssl_dataset", _join_items),
        ("vissl.data", _join_data),
        ("vissl.models.trunks.resnext", _join_grey),
        ("vissl.utils.hydra_config", _join_inference),
        ("vissl.data.ssl_transforms.ssl_transforms_wrapper", _join_copies),
        ("vissl.trainer.train_task", _join_build_loss),
        ("vissl.trainer.trainer_main", _join_process_group),
        ("vissl.utils.misc", preemption.join_workers),
        ("vissl.utils.distributed_launcher", preemption.join_launcher),
    ):
        after_import(host_module, patch)


def is_armed_at_startup() -> bool:
    """Whether the host's own command lines get our parts without asking."""
    return not is_switched_off()


def _importer(name: str) -> Callable[[Any], object]:
    return lambda _: import_module(name)


def _join_hooks(hooks: Any) -> None:
    """`default_hook_generator` looks `add_loss_hooks` up when it is called."""
    from vissl_swav.host.hook_generator import with_our_hooks

    if not hasattr(hooks, "_vissl_swav_joined"):
        hooks.add_loss_hooks = with_our_hooks(hooks.add_loss_hooks)
        hooks._vissl_swav_joined = True


def _join_inference(hydra_config: Any) -> None:
    """The host infers its losses' settings by an `if` chain on their names."""
    from vissl_swav.host import config_keys, settings

    if hasattr(hydra_config, "_vissl_swav_joined"):
        return
    host_infer = hydra_config.infer_losses_config
    host_compose = hydra_config.compose_hydra_configuration
    hydra_config.infer_losses_config = lambda cfg: settings.infer(
        settings.infer_hosts_terms(cfg, host_infer)
    )
    hydra_config.compose_hydra_configuration = lambda overrides: host_compose(
        config_keys.admit_our_keys(overrides)
    )
    hydra_config._vissl_swav_joined = True


def _join_copies(wrapper: Any) -> None:
    """The host flattens the output of transforms that it knows to make copies."""
    from vissl_swav.host.settings import TRANSFORM_NAME

    if TRANSFORM_NAME not in wrapper._TRANSFORMS_WITH_COPIES:
        wrapper._TRANSFORMS_WITH_COPIES.append(TRANSFORM_NAME)


def _join_build_loss(train_task: Any) -> None:
    """What the host's config for a loss lacks, just before it is built.

    A loss with a memory bank is told how many training images there are, a sum which
    losses it adds up.
    """
    from vissl_swav.host import settings

    task_class = train_task.SelfSupervisionTask
    if hasattr(task_class, "_vissl_swav_joined"):
        return
    build = task_class._build_loss

    def build_loss(task: Any) -> Any:
        if "train" in task.datasets:
            settings.take_num_images(task.config, len(task.datasets["train"]))
        settings.take_terms(task.config)
        return build(task)

    task_class._build_loss = build_loss
    task_class._vissl_swav_joined = True


def _join_process_group(trainer_main: Any) -> None:
    """A process that does not come is named, and not waited for without end."""
    from vissl_swav.host.process_group import join

    join(trainer_main)


def _join_items(ssl_dataset: Any) -> None:
    """The host's data set takes a key beside an image's number."""
    from vissl_swav.host.keyed_items import keyed

    dataset_class = ssl_dataset.GenericSSLDataset
    if not hasattr(dataset_class, "_vissl_swav_joined"):
        dataset_class.__getitem__ = keyed(dataset_class.__getitem__)
        dataset_class._vissl_swav_joined = True


def _join_data(data: Any) -> None:
    """Our sources of images, and our loader where a split is ours."""
    from vissl_swav.host import settings
    from vissl_swav.host.image_source import ImageSource
    from vissl_swav.host.loader import with_our_loader
    from vissl_swav.host.stream_source import StreamSource

    data.DATASET_SOURCE_MAP[settings.SOURCE_NAME] = ImageSource
    data.DATASET_SOURCE_MAP[settings.STREAM_NAME] = StreamSource
    data.DATA_SOURCES_WITH_SUBSET_SUPPORT.add(settings.SOURCE_NAME)
    if not hasattr(data, "_vissl_swav_joined"):
        data.build_dataloader = with_our_loader(
            data.build_dataloader, data.wrap_dataloader
        )
        data._vissl_swav_joined = True


def _join_grey(resnext: Any) -> None:
    """`MODEL.INPUT_TYPE: grey`: the host's ResNets with one input channel."""
    from vissl_swav.host import settings

    known = getattr(resnext.INPUT_CHANNEL, "__members__", resnext.INPUT_CHANNEL)
    channels = {name: int(count) for name, count in known.items()}
    resnext.INPUT_CHANNEL = {**channels, settings.GREY: 1}
