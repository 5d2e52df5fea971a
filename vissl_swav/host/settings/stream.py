"""What the config says about a stream of images: `DATA_SOURCES: [image_stream]`.

A stream has no image numbers and no end. The run's length is `STREAM.NUM_IMAGES`, which
`OPTIMIZER.num_epochs` cuts into stretches of equal length: one stretch, usually.
"""

from dataclasses import dataclass
from typing import Any

from vissl_swav.host.errors import StartError
from vissl_swav.host.settings import parts
from vissl_swav.host.settings.losses import LOSSES
from vissl_swav.host.settings.sums import followed_loss

STREAM_NAME = "image_stream"
_WHERE = "config.DATA.TRAIN"
_SECTION = f"{_WHERE}.STREAM"
_KEYS = ("NUM_IMAGES", "SHUFFLE_BUFFER")
_BUFFER = 1000
# Below these keys a loss of VISSL's asks for the number of images: it numbers them.
_NUMBERED = "num_train_samples"


@dataclass(frozen=True)
class StreamSettings:
    """A stream of a run.

    Attributes:
        num_images: of the whole run, over all ranks.
        num_epochs: stretches of the run.
        buffer: images that a worker holds and shuffles.
        batch_size: images in a step of one rank.
        streams_per_rank: one a worker, or one in all without workers.
        seed: of the orders.
        folder: of the run.
    """

    num_images: int
    num_epochs: int
    buffer: int
    batch_size: int
    streams_per_rank: int
    seed: int
    folder: str

    @property
    def images_per_epoch(self) -> int:
        """Of a stretch, over all ranks."""
        return self.num_images // self.num_epochs


def streams(cfg: Any) -> bool:
    """Whether the training images come from a stream."""
    return STREAM_NAME in cfg["DATA"]["TRAIN"]["DATA_SOURCES"]


def stream_settings(cfg: Any) -> StreamSettings:
    """Of an inferred config that streams."""
    data = cfg["DATA"]
    section = data["TRAIN"]["STREAM"]
    return StreamSettings(
        num_images=section["NUM_IMAGES"],
        num_epochs=cfg["OPTIMIZER"]["num_epochs"],
        buffer=section["SHUFFLE_BUFFER"],
        batch_size=data["TRAIN"]["BATCHSIZE_PER_REPLICA"],
        streams_per_rank=max(1, data["NUM_DATALOADER_WORKERS"]),
        seed=cfg["SEED_VALUE"],
        folder=cfg["CHECKPOINT"]["DIR"],
    )


def infer_stream(cfg: Any) -> None:
    """Completes `DATA.TRAIN.STREAM` in place, and checks what goes with a stream.

    Raises:
        StartError: what cannot be without image numbers; a missing or wrong number.
    """
    train = cfg.DATA.TRAIN
    given = dict(train.get("STREAM") or {})
    parts.check_keys(given, _KEYS, _SECTION)
    if STREAM_NAME in cfg.DATA.TEST.DATA_SOURCES:
        key = "config.DATA.TEST.DATA_SOURCES"
        raise StartError(
            f"{key} has {STREAM_NAME}, which is for training; test images are counted: "
            "take images.",
            key=key,
        )
    if not streams(cfg):
        if given.get("NUM_IMAGES") is not None:
            raise StartError(
                f"{_SECTION}.NUM_IMAGES is {given['NUM_IMAGES']}, which nothing reads: "
                f"{_WHERE}.DATA_SOURCES is {list(train.DATA_SOURCES)}. For a stream "
                f"set it to [{STREAM_NAME}].",
                key=f"{_SECTION}.NUM_IMAGES",
            )
        return
    _check_method(cfg)
    _check_company(cfg)
    _check_number(f"{_SECTION}.NUM_IMAGES", given.get("NUM_IMAGES"))
    given.setdefault("SHUFFLE_BUFFER", _BUFFER)
    _check_number(f"{_SECTION}.SHUFFLE_BUFFER", given["SHUFFLE_BUFFER"])
    train["STREAM"] = type(cfg)(given)


def _check_number(key: str, value: Any) -> None:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return
    if value is None:
        raise StartError(
            f"{key} is missing: a stream has no end, and this is how many images the "
            "run sees in all. About as many as the shards hold makes one pass "
            "(vissl-swav data-check PATH --shards 20 estimates it).",
            key=key,
        )
    raise StartError(f"{key} is {value!r}; wanted a number of images >= 1.", key=key)


def _check_method(cfg: Any) -> None:
    """The loss can do without numbers that stay with an image."""
    name = followed_loss(cfg)
    ours = LOSSES.get(name)
    numbered = (ours is not None and ours.clusters) or _NUMBERED in (
        cfg.LOSS.get(name) or {}
    )
    if not numbered:
        return
    raise StartError(
        f"the loss is {name}, and {_WHERE}.DATA_SOURCES is [{STREAM_NAME}]: {name} "
        "keeps a feature or a label of every image from one epoch to the next, under "
        "the image's number, and a stream has neither numbers nor, in one pass, a next "
        "epoch. Train swav there (its codes come from the batch: "
        "config=pretrain/swav/one_pass), or take the images as a numbered list, "
        f"{_WHERE}.DATA_SOURCES=[images], and several epochs.",
        key="config.LOSS.name",
    )


def _check_company(cfg: Any) -> None:
    """Settings beside a stream that nothing would read, or that need numbers."""
    train = cfg.DATA.TRAIN
    sampler = train.USE_STATEFUL_DISTRIBUTED_SAMPLER or train.USE_DEBUGGING_SAMPLER
    several = len(train.DATA_SOURCES) > 1
    wrong = (
        ("DATA_SOURCES", several, "a stream stands alone"),
        ("DATA_LIMIT", train.DATA_LIMIT >= 0, "the run's length is STREAM.NUM_IMAGES"),
        ("LABEL_SOURCES", bool(train.LABEL_SOURCES), "a stream has no labels"),
        ("LABEL_TYPE", train.LABEL_TYPE == "standard", "take sample_index"),
        ("DROP_LAST", not train.DROP_LAST, "a stream's batches are whole: take true"),
        ("USE_STATEFUL_DISTRIBUTED_SAMPLER", sampler, "the stream has its own order"),
        (
            "IMAGES_ON_DEVICE",
            bool(train.get("IMAGES_ON_DEVICE")),
            "a stream's images do not stay",
        ),
    )
    for name, is_wrong, why in wrong:
        if is_wrong:
            raise StartError(
                f"{_WHERE}.{name} is {train.get(name)!r} beside "
                f"DATA_SOURCES=[{STREAM_NAME}]; {why}.",
                key=f"{_WHERE}.{name}",
            )
    for entry in train.TRANSFORMS:
        if parts.AUTO in (entry.get("mean"), entry.get("std")):
            raise StartError(
                f"{_WHERE}.TRANSFORMS has mean or std {parts.AUTO}, which looks at "
                "images by their numbers; give the numbers (vissl-swav data-check PATH "
                "--shards 20 prints them).",
                key=f"{_WHERE}.TRANSFORMS",
            )
