"""What the host's config says about loss, schedule and trunk of ours.

`infer(cfg)` runs where the host infers settings of its own losses. It checks the keys
below `LOSS.swav`, fills in what the rest of the config implies (crops, prototypes,
dimension, queue per rank) and the defaults of the core signature, all in place, so that
the composed config shows what will run.
"""

import inspect
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vissl_swav.core.swav import SwAV
from vissl_swav.host.errors import StartError
from vissl_swav.host.settings import parts

LOSS_NAME = "swav"
COLLATOR_NAME = "multi_crop_collator"

_CORE = {
    name: parameter.default
    for name, parameter in inspect.signature(SwAV).parameters.items()
}
_INFERRED = ("num_crops", "num_prototypes", "embedding_dim", "queue_length_per_rank")
# Keys with which the host's hooks follow the run; the paper's first epoch of freeze.
_SCHEDULE: dict[str, Any] = {
    "queue_start_epoch": None,
    "freeze_prototypes_epochs": None,
    "freeze_prototypes_steps": None,
    "trainable_prototypes": True,
}
_FREEZE_EPOCHS = 1
_COUNTS = (
    "queue_length",
    "queue_start_epoch",
    "queue_start_step",
    "hard_codes_steps",
    "freeze_prototypes_epochs",
    "freeze_prototypes_steps",
)
_DEFAULTS = {
    name: list(value) if isinstance(value, tuple) else value
    for name, value in {**_CORE, **_SCHEDULE}.items()
    if value is not inspect.Parameter.empty
}
SWAV_KEYS = (*_DEFAULTS, *_INFERRED)


@dataclass(frozen=True)
class Schedule:
    """When queue and prototypes change their behaviour, in epochs or in steps."""

    queue_start_epoch: int | None
    queue_start_step: int | None
    freeze_prototypes_epochs: int | None
    freeze_prototypes_steps: int | None
    trainable_prototypes: bool

    def queue_start(self, steps_per_epoch: int) -> int:
        """Training step at which the queue begins to fill."""
        if self.queue_start_epoch is not None:
            return self.queue_start_epoch * steps_per_epoch
        return self.queue_start_step or 0

    def freeze_steps(self, steps_per_epoch: int) -> float:
        """Training steps during which the prototypes get no gradient."""
        if not self.trainable_prototypes:
            return float("inf")
        if self.freeze_prototypes_epochs is not None:
            return self.freeze_prototypes_epochs * steps_per_epoch
        return self.freeze_prototypes_steps or 0


def is_ours(cfg: Any) -> bool:
    """Whether the run uses one of our losses."""
    return cfg.LOSS["name"] == LOSS_NAME


def infer(cfg: Any) -> Any:
    """Completes `cfg.LOSS.swav` in place where it is the loss of the run.

    Raises:
        StartError: an unknown key, a value of the wrong type, two keys that exclude
            each other, or a value that the rest of the config contradicts.
    """
    _label_paths(cfg)
    if not is_ours(cfg):
        return cfg
    given = dict(cfg.LOSS.get(LOSS_NAME) or {})
    given.pop("name", None)
    parts.check_keys(given, SWAV_KEYS, f"config.LOSS.{LOSS_NAME}")
    _check_types(given)
    settings = {**_DEFAULTS, **given}
    _settle_alternatives(given, settings)
    head = parts.swav_head(cfg)
    _set_inferred(settings, "num_crops", parts.num_crops(cfg, given.get("num_crops")))
    _set_inferred(settings, "num_prototypes", list(head["num_clusters"]))
    _set_inferred(settings, "embedding_dim", head["dims"][-1])
    total, local = _queue_rows(settings["queue_length"], cfg)
    settings["queue_length"] = total
    _set_inferred(settings, "queue_length_per_rank", local)
    _build(settings)
    cfg.LOSS[LOSS_NAME] = type(cfg)(settings)
    if cfg.DATA.TRAIN.COLLATE_FUNCTION == "default_collate":
        logging.info(f"vissl_swav: DATA.TRAIN.COLLATE_FUNCTION is now {COLLATOR_NAME}")
        cfg.DATA.TRAIN.COLLATE_FUNCTION = COLLATOR_NAME
    return cfg


def loss_arguments(loss_config: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `core.swav.SwAV` from an inferred `LOSS.swav`."""
    missing = [key for key in _INFERRED if key not in loss_config]
    if missing:
        raise StartError(
            f"config.LOSS.{LOSS_NAME} lacks {missing}, which vissl_swav infers when "
            "the "
            "host completes the config (convert_to_attrdict); give them, or compose "
            "the config through the host."
        )
    arguments = {name: loss_config.get(name, _DEFAULTS.get(name)) for name in _CORE}
    arguments["queue_length"] = loss_config["queue_length_per_rank"]
    arguments["queue_start_step"] = arguments["queue_start_step"] or 0
    return arguments


def schedule(cfg: Any) -> Schedule:
    """The schedule of an inferred config."""
    names = Schedule.__dataclass_fields__
    return Schedule(**{name: cfg.LOSS[LOSS_NAME][name] for name in names})


def loss_bounds(cfg: Mapping[str, Any]) -> tuple[float, float]:
    """Ceiling and floor of the loss in a run whose settings are inferred, in nats.

    ln K where nothing is learned; ln(K / N) where N samples (batch of all ranks and
    queue) have soft codes over more prototypes than samples, else 0. Means over heads.
    """
    loss, split = cfg["LOSS"][LOSS_NAME], cfg["DATA"]["TRAIN"]
    ranks = cfg["DISTRIBUTED"]["NUM_NODES"] * cfg["DISTRIBUTED"]["NUM_PROC_PER_NODE"]
    samples = split["BATCHSIZE_PER_REPLICA"] * ranks + loss["queue_length"]
    counts = loss["num_prototypes"]
    ceiling = sum(map(math.log, counts)) / len(counts)
    hard = loss["hard_codes"] or loss["hard_codes_steps"] > 0
    floors = [0.0 if hard else max(0.0, math.log(K / samples)) for K in counts]
    return ceiling, sum(floors) / len(floors)


def world_size(cfg: Any) -> int:
    """Number of processes of the run."""
    return cfg.DISTRIBUTED.NUM_NODES * cfg.DISTRIBUTED.NUM_PROC_PER_NODE


def _check_types(given: Mapping[str, Any]) -> None:
    for key, value in given.items():
        if value is None and (key in _SCHEDULE or key == "queue_start_step"):
            continue
        wanted = _wanted_type(key)
        words = " or ".join(kind.__name__ for kind in wanted)
        fits = isinstance(value, wanted) and (
            bool in wanted or not isinstance(value, bool)
        )
        if isinstance(value, list):
            words = "a list of whole numbers"
            fits = fits and all(type(item) is int for item in value)
        if key in _COUNTS and isinstance(value, int):
            words = "a number >= 0"
            fits = fits and value >= 0
        if not fits:
            raise StartError(
                f"config.LOSS.{LOSS_NAME}.{key} is {value!r}; wanted {words}.",
                key=f"config.LOSS.{LOSS_NAME}.{key}",
            )


def _wanted_type(key: str) -> tuple[type, ...]:
    default = _DEFAULTS.get(key)
    if key in ("crops_for_assign", "num_prototypes"):
        return (list,)
    if isinstance(default, bool):
        return (bool,)
    return (int, float) if isinstance(default, float) else (int,)


def _settle_alternatives(given: Mapping[str, Any], settings: dict[str, Any]) -> None:
    """Epochs or steps, not both; what is not used is shown as null."""
    for epochs, steps in (
        ("queue_start_epoch", "queue_start_step"),
        ("freeze_prototypes_epochs", "freeze_prototypes_steps"),
    ):
        if given.get(epochs) is not None and given.get(steps) is not None:
            raise StartError(
                f"config.LOSS.{LOSS_NAME} has both {epochs} ({given[epochs]}) and "
                f"{steps} ({given[steps]}); give one and set the other to null.",
                key=f"config.LOSS.{LOSS_NAME}.{epochs}",
            )
        if given.get(epochs) is not None:
            settings[steps] = None
    if settings["freeze_prototypes_epochs"] is None:
        if settings["freeze_prototypes_steps"] is None:
            settings["freeze_prototypes_epochs"] = _FREEZE_EPOCHS
    if settings["queue_start_epoch"] is None and settings["queue_start_step"] is None:
        settings["queue_start_step"] = _CORE["queue_start_step"]


def _label_paths(cfg: Any) -> None:
    """A folder given by DATA_PATHS alone holds its labels too.

    Without LABEL_PATHS the host looks the data set's name up in its catalogue and dies
    where it is not registered (`data/dataset_catalog.py`, `get_data_files`).
    """
    for split in ("TRAIN", "TEST"):
        data = cfg.DATA[split]
        folders = set(data.DATA_SOURCES) <= {"disk_folder", "torchvision_dataset"}
        if data.DATA_PATHS and folders and not data.LABEL_PATHS:
            data.LABEL_PATHS = list(data.DATA_PATHS)


def _set_inferred(settings: dict[str, Any], key: str, value: Any) -> None:
    given = settings.get(key)
    if given is not None and given != value:
        raise StartError(
            f"config.LOSS.{LOSS_NAME}.{key} is {given}, but the rest of the config "
            f"says {value}; leave the key out, it is inferred.",
            key=f"config.LOSS.{LOSS_NAME}.{key}",
        )
    settings[key] = value


def _queue_rows(total: int, cfg: Any) -> tuple[int, int]:
    """Queue rows over all ranks, a multiple of the global batch, and of one rank."""
    if total < 0:
        raise StartError(
            f"config.LOSS.{LOSS_NAME}.queue_length is {total}; wanted >= 0."
        )
    batch = cfg.DATA.TRAIN.BATCHSIZE_PER_REPLICA * world_size(cfg)
    rounded = total - total % batch
    if total and not rounded:
        raise StartError(
            f"config.LOSS.{LOSS_NAME}.queue_length is {total}, less than one global "
            f"batch of {batch}; give a multiple of it (the paper: 15 batches), or 0.",
            key=f"config.LOSS.{LOSS_NAME}.queue_length",
        )
    if rounded != total:
        logging.info(f"vissl_swav: queue_length {total} rounded down to {rounded}")
    return rounded, rounded // world_size(cfg)


def _build(settings: Mapping[str, Any]) -> None:
    """The core's own checks, before anything is loaded or allocated."""
    arguments = loss_arguments(settings)
    try:
        SwAV(**{**arguments, "queue_length": 0})
    except ValueError as error:
        raise StartError(f"config.LOSS.{LOSS_NAME}: {error}") from error
    for key in ("temperature", "epsilon"):
        if not settings[key] > 0:
            raise StartError(
                f"config.LOSS.{LOSS_NAME}.{key} is {settings[key]}; wanted > 0 "
                f"(the paper: {_CORE[key]}).",
                key=f"config.LOSS.{LOSS_NAME}.{key}",
            )
    if settings["num_iterations"] < 1 or settings["num_crops"] < 2:
        raise StartError(
            f"config.LOSS.{LOSS_NAME} has num_iterations {settings['num_iterations']} "
            f"and num_crops {settings['num_crops']}; wanted >= 1 and >= 2."
        )
