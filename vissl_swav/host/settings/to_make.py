"""Sections of a config that the host makes objects of, for a trial before the run."""

from dataclasses import dataclass
from typing import Any

from vissl_swav.host.settings import parts
from vissl_swav.host.settings.data import GREY, multi_crop_entry
from vissl_swav.host.settings.loss import is_ours

# The host's sharded trunks are made in a process group only.
_IN_A_GROUP = "fsdp"


@dataclass(frozen=True)
class ToMake:
    """What a run with a loss of ours makes before its first step.

    Attributes:
        optimizer: `OPTIMIZER`.
        meters: `METERS`.
        transforms: of the training data.
        collator: name and arguments of the training data's.
        inputs: names under which the model's input and the target lie in a batch.
        model: `MODEL` and `OPTIMIZER`, which the host's models ask for; None where the
            model cannot be made without the run's processes.
        crop_sizes: edges of the crops that the model will see; empty where not known.
        channels: of an image.
    """

    optimizer: Any
    meters: Any
    transforms: list[Any]
    collator: tuple[str, Any]
    inputs: tuple[str, ...]
    model: tuple[Any, Any] | None
    crop_sizes: tuple[int, ...]
    channels: int


def to_make(cfg: Any) -> ToMake | None:
    """From an inferred config; None where the loss is the host's."""
    if not is_ours(cfg):
        return None
    train = cfg.DATA.TRAIN
    entry = multi_crop_entry(cfg, "TRAIN")
    made = None if entry is None else parts.multi_crop(entry)
    in_a_group = _IN_A_GROUP in cfg.MODEL.TRUNK.NAME
    return ToMake(
        optimizer=cfg.OPTIMIZER,
        meters=cfg.METERS,
        transforms=[_measured(transform) for transform in train.TRANSFORMS],
        collator=(train.COLLATE_FUNCTION, train.COLLATE_FUNCTION_PARAMS),
        inputs=(*train.INPUT_KEY_NAMES, *train.TARGET_KEY_NAMES),
        model=None if in_a_group else (cfg.MODEL, cfg.OPTIMIZER),
        crop_sizes=() if made is None else tuple(g.size for g in made.groups),
        channels=1 if cfg.MODEL.INPUT_TYPE == GREY else 3,
    )


def _measured(transform: Any) -> Any:
    """Without the numbers that are measured just before the run starts."""
    if transform["name"] != parts.TRANSFORM_NAME:
        return transform
    kept = {
        key: value
        for key, value in transform.items()
        if key not in ("mean", "std") or value != parts.AUTO
    }
    return type(transform)(kept)
