"""What the host's config says about our loss and its schedule.

`infer(cfg)` runs where the host infers settings of its own losses. It checks the keys
below `LOSS.<name>`, fills in what the rest of the config implies (crops, prototypes,
dimension, queue per rank) and the defaults of the core signature, all in place, so that
the composed config shows what will run.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from vissl_swav.health.plan import Contrast, loss_ceiling, loss_floor
from vissl_swav.host.errors import StartError
from vissl_swav.host.settings import parts
from vissl_swav.host.settings.auto_scale import auto_scale
from vissl_swav.host.settings.data import COLLATOR_NAME, SOURCE_NAME, infer_data
from vissl_swav.host.settings.dino import infer_dino, is_dino_sinkhorn
from vissl_swav.host.settings.learning_rate import check_rates
from vissl_swav.host.settings.loss_checks import build, check_name, check_types
from vissl_swav.host.settings.losses import (
    LOSSES,
    SIMCLR_MULTICROP,
    SWAV,
    SWAV_MOMENTUM,
    LossKeys,
)
from vissl_swav.host.settings.schedule import Schedule, schedule_of
from vissl_swav.host.settings.stream import STREAM_NAME
from vissl_swav.host.settings.sums import (
    complete_sum,
    followed_loss,
    is_sum,
    other_terms_of_ours,
    term_names,
)

# The paper's first epoch of freeze, for prototypes that are trained.
_FREEZE_EPOCHS = 1


def is_ours(cfg: Any) -> bool:
    """Whether the run uses one of our losses, alone or as a term of a sum."""
    return followed_loss(cfg) in LOSSES


def clusters(cfg: Any) -> bool:
    """Whether the run's loss is ours and finds labels before an epoch."""
    return is_ours(cfg) and LOSSES[followed_loss(cfg)].clusters


def has_prototypes(cfg: Any) -> bool:
    """Whether the run's loss is ours and scores prototypes."""
    return is_ours(cfg) and LOSSES[followed_loss(cfg)].has_prototypes


def follows_by_momentum(cfg: Any) -> bool:
    """Whether the run's loss takes its codes from a momentum encoder."""
    return followed_loss(cfg) == SWAV_MOMENTUM


def loss_settings(cfg: Mapping[str, Any]) -> Mapping[str, Any]:
    """`LOSS.<name>` of the run's loss, inferred; empty where it is not ours."""
    name = followed_loss(cfg)
    return (cfg["LOSS"].get(name) or {}) if name in LOSSES else {}


def infer(cfg: Any) -> Any:
    """Completes `cfg.LOSS.<name>` in place where it is a loss of ours.

    Raises:
        StartError: an unknown key, a value of the wrong type, two keys that exclude
            each other, or a value that the rest of the config contradicts.
    """
    _label_paths(cfg)
    infer_data(cfg)
    auto_scale(cfg)
    if is_dino_sinkhorn(cfg):
        return infer_dino(cfg)
    if not is_ours(cfg):
        check_name(cfg)
        return cfg
    if cfg.TEST_ONLY:
        raise StartError(
            f"config.TEST_ONLY is true, but {cfg.LOSS['name']} is a loss to pretrain "
            "with; to evaluate a checkpoint take config=benchmark/... with "
            "config.MODEL.WEIGHTS_INIT.PARAMS_FILE=CHECKPOINT.",
            key="config.TEST_ONLY",
        )
    check_rates(cfg)
    if follows_by_momentum(cfg):
        parts.check_is_whole(cfg.MODEL)
    loss = LOSSES[followed_loss(cfg)]
    for other in LOSSES:
        if other not in term_names(cfg) and cfg.LOSS.get(other):
            logging.warning(
                f"vissl_swav: the loss is {loss.name}; what stands below "
                f"config.LOSS.{other} is not read (config.LOSS.{other}=null says so)."
            )
    _complete(cfg, loss)
    if is_sum(cfg):
        complete_sum(cfg)
        for name, crops in other_terms_of_ours(cfg):
            _complete(cfg, LOSSES[name], crops)
    if cfg.DATA.TRAIN.COLLATE_FUNCTION == "default_collate":
        logging.info(f"vissl_swav: DATA.TRAIN.COLLATE_FUNCTION is now {COLLATOR_NAME}")
        cfg.DATA.TRAIN.COLLATE_FUNCTION = COLLATOR_NAME
    # Late: `health` reads what this file says of the loss.
    from vissl_swav.host.settings.health import infer_health

    infer_health(cfg)
    return cfg


def _complete(cfg: Any, loss: LossKeys, crops: Sequence[int] | None = None) -> None:
    """`LOSS.<name>` of one loss of ours, in place.

    Args:
        cfg: the host's config.
        loss: the run's, or a term of its sum.
        crops: those that the term takes; None for all.
    """
    given = dict(cfg.LOSS.get(loss.name) or {})
    given.pop("name", None)
    parts.check_keys(given, loss.keys, f"config.LOSS.{loss.name}")
    check_types(loss, given)
    settings = {**loss.defaults, **given}
    _settle_alternatives(loss, given, settings)
    count = parts.num_crops(cfg, None if crops else given.get("num_crops"))
    inferred: dict[str, Any] = {"num_crops": len(crops) if crops else count}
    shares_a_head = loss.has_prototypes or is_sum(cfg)
    head = parts.swav_head(cfg) if shares_a_head else parts.projection_head(cfg)
    if loss.has_prototypes:
        inferred["num_prototypes"] = list(head["num_clusters"])
    inferred["embedding_dim"] = head["dims"][-1]
    if "queue_length" in settings:
        total, local = _queue_rows(settings["queue_length"], cfg, loss.name)
        settings["queue_length"] = total
        inferred["queue_length_per_rank"] = local
    for key, value in inferred.items():
        _set_inferred(loss, settings, key, value)
    build(loss, settings)
    cfg.LOSS[loss.name] = type(cfg)(settings)


def schedule(cfg: Any) -> Schedule:
    """The schedule of an inferred config."""
    return schedule_of(loss_settings(cfg))


def take_num_images(cfg: Any, count: int) -> None:
    """Tells a loss with a memory bank how many images the training data has, in place.

    The host's own key for it, `num_train_samples`, holds the number of *test* images in
    a run that tests as well (`trainer/train_task.py`, `_build_loss`).
    """
    if clusters(cfg):
        cfg.LOSS[followed_loss(cfg)]["num_images"] = count


def loss_bounds(cfg: Mapping[str, Any]) -> tuple[float, float]:
    """Ceiling and floor of the loss in a run whose settings are inferred, in nats.

    `health.plan` has the formulas. Hard codes and labels of a bank have no floor.
    """
    loss = loss_settings(cfg)
    found = contrast(cfg)
    if found is not None:
        return found.ceiling, found.floor
    counts = loss["num_prototypes"]
    has_soft_codes = followed_loss(cfg) in (SWAV, SWAV_MOMENTUM)
    if not has_soft_codes or loss["hard_codes"] or loss["hard_codes_steps"]:
        return loss_ceiling(counts), 0.0
    samples = _global_batch(cfg) + loss["queue_length"]
    return loss_ceiling(counts), loss_floor(counts, samples)


def contrast(cfg: Mapping[str, Any]) -> Contrast | None:
    """What a loss of pairs of images compares; None for one with prototypes."""
    loss = loss_settings(cfg)
    if followed_loss(cfg) != SIMCLR_MULTICROP:
        return None
    return Contrast(
        num_images=_global_batch(cfg),
        num_crops=loss["num_crops"],
        temperature=loss["temperature"],
        max_similarities=loss["max_similarities"],
    )


def _global_batch(cfg: Mapping[str, Any]) -> int:
    ranks = cfg["DISTRIBUTED"]["NUM_NODES"] * cfg["DISTRIBUTED"]["NUM_PROC_PER_NODE"]
    return cfg["DATA"]["TRAIN"]["BATCHSIZE_PER_REPLICA"] * ranks


def world_size(cfg: Any) -> int:
    """Number of processes of the run."""
    return cfg.DISTRIBUTED.NUM_NODES * cfg.DISTRIBUTED.NUM_PROC_PER_NODE


def _settle_alternatives(
    loss: LossKeys, given: Mapping[str, Any], settings: dict[str, Any]
) -> None:
    """Epochs or steps, not both; what is not used is shown as null."""
    for epochs, steps in (
        ("queue_start_epoch", "queue_start_step"),
        ("freeze_prototypes_epochs", "freeze_prototypes_steps"),
    ):
        if given.get(epochs) is not None and given.get(steps) is not None:
            raise StartError(
                f"config.LOSS.{loss.name} has both {epochs} ({given[epochs]}) and "
                f"{steps} ({given[steps]}); give one and set the other to null.",
                key=f"config.LOSS.{loss.name}.{epochs}",
            )
        if given.get(epochs) is not None:
            settings[steps] = None
    freezes = "freeze_prototypes_epochs" in settings
    if freezes and settings["freeze_prototypes_epochs"] is None:
        if settings["freeze_prototypes_steps"] is None:
            settings["freeze_prototypes_epochs"] = _FREEZE_EPOCHS
    queues = "queue_start_epoch" in settings
    if queues and settings["queue_start_epoch"] is None:
        if settings["queue_start_step"] is None:
            settings["queue_start_step"] = loss.defaults["queue_start_step"]


def _label_paths(cfg: Any) -> None:
    """A folder given by DATA_PATHS alone holds its labels too.

    Without LABEL_PATHS the host looks the data set's name up in its catalogue and dies
    where it is not registered (`data/dataset_catalog.py`, `get_data_files`).
    """
    for split in ("TRAIN", "TEST"):
        data = cfg.DATA[split]
        folders = set(data.DATA_SOURCES) <= {
            "disk_folder",
            "torchvision_dataset",
            SOURCE_NAME,
            STREAM_NAME,
        }
        if data.DATA_PATHS and folders and not data.LABEL_PATHS:
            data.LABEL_PATHS = list(data.DATA_PATHS)


def _set_inferred(
    loss: LossKeys, settings: dict[str, Any], key: str, value: Any
) -> None:
    given = settings.get(key)
    if given is not None and given != value:
        raise StartError(
            f"config.LOSS.{loss.name}.{key} is {given}, but the rest of the config "
            f"says {value}; leave the key out, it is inferred.",
            key=f"config.LOSS.{loss.name}.{key}",
        )
    settings[key] = value


def _queue_rows(total: int, cfg: Any, name: str) -> tuple[int, int]:
    """Queue rows over all ranks, a multiple of the global batch, and of one rank."""
    if total < 0:
        raise StartError(f"config.LOSS.{name}.queue_length is {total}; wanted >= 0.")
    batch = cfg.DATA.TRAIN.BATCHSIZE_PER_REPLICA * world_size(cfg)
    rounded = total - total % batch
    if total and not rounded:
        raise StartError(
            f"config.LOSS.{name}.queue_length is {total}, less than one global "
            f"batch of {batch}; give a multiple of it (the paper: 15 batches), or 0.",
            key=f"config.LOSS.{name}.queue_length",
        )
    if rounded != total:
        logging.info(f"vissl_swav: queue_length {total} rounded down to {rounded}")
    return rounded, rounded // world_size(cfg)
