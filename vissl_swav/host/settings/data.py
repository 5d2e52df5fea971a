"""What the host's config says about images: sources, `MultiCrop`, the loader."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vissl_swav.host.errors import StartError
from vissl_swav.host.settings import parts
from vissl_swav.host.settings.stream import STREAM_NAME, infer_stream

SOURCE_NAME = "images"
COLLATOR_NAME = "multi_crop_collator"
TRAIN_STEP_NAME = "multi_crop_train_step"
GREY = "grey"
_SPLITS = ("TRAIN", "TEST")
# Of the host's: an image's crops must have one size.
_STACKING_COLLATORS = ("simclr_collator", "moco_collator", "siamese_collator")
_MAX_UNREADABLE_SHARE = 0.05
_STEP_KEY = "config.TRAINER.TRAIN_STEP_NAME"
_RESIDENT_KEY = "config.DATA.TRAIN.IMAGES_ON_DEVICE"


@dataclass(frozen=True)
class LoaderSettings:
    """What a split's loader is made of."""

    batch_size: int
    collator: str
    collator_arguments: Mapping[str, Any]
    drop_last: bool
    copies_ahead: bool
    multi_crop: Mapping[str, Any] | None
    only_multi_crop: bool
    crops_on_device: bool
    images_on_device: bool
    uses_hosts_sampler: bool
    streams: bool
    folder: str


def loader_settings(cfg: Any, split: str) -> LoaderSettings:
    """Of an inferred config."""
    data, train = cfg.DATA[split], split == "TRAIN"
    return LoaderSettings(
        batch_size=data.BATCHSIZE_PER_REPLICA,
        collator=data.COLLATE_FUNCTION,
        collator_arguments=data.COLLATE_FUNCTION_PARAMS,
        drop_last=data.DROP_LAST,
        copies_ahead=cfg.DATA.ENABLE_ASYNC_GPU_COPY,
        multi_crop=multi_crop_entry(cfg, split),
        only_multi_crop=only_multi_crop(cfg, split),
        crops_on_device=train and crops_on_device(cfg),
        images_on_device=train and images_on_device(cfg),
        uses_hosts_sampler=uses_hosts_sampler(cfg, split),
        streams=STREAM_NAME in data.DATA_SOURCES,
        folder=cfg.CHECKPOINT.DIR,
    )


def infer_data(cfg: Any) -> None:
    """Completes the `MultiCrop` entries of the config, in place.

    `channels` follows `MODEL.INPUT_TYPE`; `output` is `uint8` where nothing comes after
    (the loader normalises on the device); `on_device` follows the train step.

    Raises:
        StartError: settings that contradict each other.
    """
    for split in _SPLITS:
        transforms = cfg.DATA[split].TRANSFORMS
        names = [entry["name"] for entry in transforms]
        if names.count(parts.TRANSFORM_NAME) > 1:
            key = f"config.DATA.{split}.TRANSFORMS"
            raise StartError(
                f"{key} has MultiCrop {names.count(parts.TRANSFORM_NAME)} times; "
                "wanted one, with a group for every kind of crop.",
                key=key,
            )
        for place, entry in enumerate(transforms):
            if entry["name"] == parts.TRANSFORM_NAME:
                _complete(cfg, split, entry, is_last=place == len(transforms) - 1)
        _check_stacks(cfg, split)
    infer_stream(cfg)
    _check_on_device(cfg)
    max_unreadable_share(cfg)


def _check_stacks(cfg: Any, split: str) -> None:
    """Crops of several sizes do not go to a collator that stacks all of them."""
    entry, collator = multi_crop_entry(cfg, split), cfg.DATA[split].COLLATE_FUNCTION
    if entry is None or collator not in _STACKING_COLLATORS:
        return
    sizes = sorted({group.size for group in parts.multi_crop(entry, split).groups})
    if len(sizes) > 1:
        key = f"config.DATA.{split}.COLLATE_FUNCTION"
        raise StartError(
            f"{key} is {collator}, which stacks the crops of an image, and MultiCrop "
            f"makes crops of {sizes} pixels. Take a collator and a loss for several "
            "sizes: VISSL's overlay +config/pretrain/simclr/transforms="
            "multicrop_2x160_4x96, before ours, brings both for its SimCLR; ours is "
            f"{COLLATOR_NAME} with config.LOSS.name=simclr_multicrop, say.",
            key=key,
        )


def multi_crop_entry(cfg: Any, split: str) -> Mapping[str, Any] | None:
    """The entry of `MultiCrop` among a split's transforms, or None."""
    for entry in cfg.DATA[split].TRANSFORMS:
        if entry["name"] == parts.TRANSFORM_NAME:
            return entry
    return None


def starts_with_multi_crop(cfg: Any, split: str) -> bool:
    """Whether a split's images go straight to `MultiCrop`."""
    transforms = cfg.DATA[split].TRANSFORMS
    return bool(transforms) and transforms[0]["name"] == parts.TRANSFORM_NAME


def only_multi_crop(cfg: Any, split: str) -> bool:
    """Whether `MultiCrop` is a split's only transform."""
    return starts_with_multi_crop(cfg, split) and len(cfg.DATA[split].TRANSFORMS) == 1


def uses_our_loader(cfg: Any, split: str) -> bool:
    """Whether a split has our transform or one of our sources."""
    ours = {SOURCE_NAME, STREAM_NAME} & set(cfg.DATA[split].DATA_SOURCES)
    return bool(ours) or multi_crop_entry(cfg, split) is not None


def uses_hosts_sampler(cfg: Any, split: str) -> bool:
    """Whether the config asks for a sampler of the host's by its own key."""
    data = cfg.DATA[split]
    return data.USE_STATEFUL_DISTRIBUTED_SAMPLER or data.USE_DEBUGGING_SAMPLER


def crops_on_device(cfg: Any) -> bool:
    """Whether the train step makes the crops of whole images."""
    return cfg.TRAINER.TRAIN_STEP_NAME == TRAIN_STEP_NAME


def images_on_device(cfg: Any) -> bool:
    """Whether the whole training data sits where the model computes.

    Raises:
        StartError: neither true nor false.
    """
    value = cfg.DATA.TRAIN.get("IMAGES_ON_DEVICE", False)
    if not isinstance(value, bool):
        raise StartError(
            f"{_RESIDENT_KEY} is {value!r}; wanted true or false.", key=_RESIDENT_KEY
        )
    return value


def max_unreadable_share(cfg: Any) -> float:
    """Share of the training images from which on unreadable ones stop the run.

    Raises:
        StartError: no number in [0, 1].
    """
    key = "config.DATA.TRAIN.MAX_UNREADABLE_SHARE"
    share = cfg.DATA.TRAIN.get("MAX_UNREADABLE_SHARE", _MAX_UNREADABLE_SHARE)
    is_number = isinstance(share, (int, float)) and not isinstance(share, bool)
    if not is_number or not 0 <= share <= 1:
        raise StartError(f"{key} is {share!r}; wanted a share in [0, 1].", key=key)
    return share


def log_frequency(cfg: Any) -> int:
    """Steps between lines of the log."""
    return max(1, cfg.LOG_FREQUENCY)


def num_workers(cfg: Any) -> int:
    """Data-loader processes of each rank."""
    return cfg.DATA.NUM_DATALOADER_WORKERS


def wants_labels(cfg: Any) -> bool:
    """Whether the run reads labels of its training images."""
    return bool(cfg.DATA.TRAIN.LABEL_SOURCES)


def measures_data(cfg: Any) -> bool:
    """Whether the run trains on batches of our loader."""
    return not cfg.TEST_ONLY and uses_our_loader(cfg, "TRAIN")


def tests(cfg: Any) -> bool:
    """Whether the run has test phases."""
    return bool(cfg.TEST_MODEL)


def sets_automatic(cfg: Any) -> list[tuple[str, Any]]:
    """(split, entry) of every `MultiCrop` whose mean or std is `auto`."""
    found: list[tuple[str, Any]] = []
    for split in _SPLITS:
        entry = multi_crop_entry(cfg, split)
        if entry and parts.AUTO in (entry.get("mean"), entry.get("std")):
            found.append((split, entry))
    return found


def check_resolved(entry: Mapping[str, Any]) -> None:
    """No mean or std of an entry of `MultiCrop` is still `auto`.

    Raises:
        StartError: one is.
    """
    for key in ("mean", "std"):
        if entry.get(key) == parts.AUTO:
            raise StartError(
                f"MultiCrop has {key}: {parts.AUTO}, which `vissl-swav train` replaces "
                "by numbers before it starts; on VISSL's own command lines give the "
                "numbers (vissl-swav data-check PATH prints them)."
            )


def data_path(cfg: Any, split: str) -> str | None:
    """The one path of a split, None where it has none."""
    paths = cfg.DATA[split].DATA_PATHS
    return str(paths[0]) if paths else None


def _complete(cfg: Any, split: str, entry: Any, *, is_last: bool) -> None:
    key = f"config.DATA.{split}.TRANSFORMS"
    given = dict(entry)
    wanted = 1 if GREY == cfg.MODEL.INPUT_TYPE else 3
    if entry.setdefault("channels", wanted) != wanted:
        raise StartError(
            f"{key}, MultiCrop has channels {entry['channels']}, but "
            f"config.MODEL.INPUT_TYPE is {cfg.MODEL.INPUT_TYPE}; one channel goes with "
            f"INPUT_TYPE={GREY}, three with rgb.",
            key=key,
        )
    parts.multi_crop(entry, split)  # Raises what it would raise after the start.
    entry.setdefault("output", "uint8" if is_last else "float")
    if entry["output"] == "uint8" and not is_last:
        raise StartError(
            f"{key}: MultiCrop has output uint8, but other transforms follow it, which "
            "work on normalised floats; set output: float, or put MultiCrop last.",
            key=key,
        )
    on_device = split == "TRAIN" and crops_on_device(cfg)
    if entry.setdefault("on_device", on_device) != on_device:
        raise StartError(
            f"{key}, MultiCrop has on_device {entry['on_device']}, but {_STEP_KEY} is "
            f"{cfg.TRAINER.TRAIN_STEP_NAME}; {TRAIN_STEP_NAME} makes the crops of "
            "training images on the device, and it alone.",
            key=key,
        )
    _check_for_the_step(given, key, on_device=on_device)


def _check_for_the_step(given: Mapping[str, Any], key: str, *, on_device: bool) -> None:
    """Settings that only the workers' crops have, or only the train step's images."""
    side = given.get("max_side", 1)
    if not isinstance(side, int) or isinstance(side, bool) or side < 1:
        raise StartError(
            f"{key}, MultiCrop has max_side {side!r}; wanted pixels, 512 say.", key=key
        )
    unread = ("backend", "output") if on_device else ("max_side",)
    for name in unread:
        if name in given:
            makes = "makes the crops" if on_device else "is not the train step"
            raise StartError(
                f"{key}, MultiCrop has {name}: {given[name]}, which nothing reads: "
                f"{TRAIN_STEP_NAME} {makes}. Leave it out.",
                key=key,
            )


def _check_on_device(cfg: Any) -> None:
    if not crops_on_device(cfg):
        if images_on_device(cfg):
            raise StartError(
                f"{_RESIDENT_KEY} is true, but {_STEP_KEY} is "
                f"{cfg.TRAINER.TRAIN_STEP_NAME}; set it to {TRAIN_STEP_NAME}.",
                key=_RESIDENT_KEY,
            )
        return
    train = cfg.DATA.TRAIN
    if images_on_device(cfg) and uses_hosts_sampler(cfg, "TRAIN"):
        raise StartError(
            f"{_RESIDENT_KEY} is true, which goes with our sampler only; set "
            "USE_STATEFUL_DISTRIBUTED_SAMPLER and USE_DEBUGGING_SAMPLER to false (ours "
            "resumes in mid-epoch as well).",
            key=_RESIDENT_KEY,
        )
    if not only_multi_crop(cfg, "TRAIN"):
        names = [entry["name"] for entry in train.TRANSFORMS]
        raise StartError(
            f"{_STEP_KEY} is {TRAIN_STEP_NAME}, which wants MultiCrop as the only "
            f"transform of config.DATA.TRAIN.TRANSFORMS; got {names}.",
            key=_STEP_KEY,
        )
    if train.COLLATE_FUNCTION == "default_collate":
        train.COLLATE_FUNCTION = COLLATOR_NAME
    if train.COLLATE_FUNCTION != COLLATOR_NAME:
        raise StartError(
            f"{_STEP_KEY} is {TRAIN_STEP_NAME}, which wants the collator "
            f"{COLLATOR_NAME}; config.DATA.TRAIN.COLLATE_FUNCTION is "
            f"{train.COLLATE_FUNCTION}.",
            key="config.DATA.TRAIN.COLLATE_FUNCTION",
        )
