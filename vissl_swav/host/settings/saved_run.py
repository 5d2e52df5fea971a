"""What a finished run's `train_config.yaml` says to those who use its model."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vissl_swav.core.sinkhorn import EPSILON
from vissl_swav.host.errors import StartError
from vissl_swav.host.settings import parts
from vissl_swav.host.settings.losses import LOSSES
from vissl_swav.host.settings.sums import followed_loss


@dataclass(frozen=True)
class SavedRun:
    """The model of a run, and how its images and prototypes meet.

    Attributes:
        loss: `LOSS.name`.
        temperature: of the softmax over prototypes in the loss.
        epsilon: of the run's Sinkhorn problem; the paper's where it has none.
        num_prototypes: K of each head; empty where the loss has no prototypes.
        crop_size: side of the largest crops, in pixels.
        channels: of an image, 1 or 3.
        mean: of each channel; None is ImageNet's.
        std: of each channel; None is ImageNet's.
        model: the host's settings of the model.
        optimizer: the host's settings of the optimizer, which its models ask for.
    """

    loss: str
    temperature: float
    epsilon: float
    num_prototypes: tuple[int, ...]
    crop_size: int
    channels: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]


@contextlib.contextmanager
def reading_a_run() -> Iterator[None]:
    """What a tree lacks is said as one error.

    Raises:
        StartError: the tree that is read inside is no config of a run.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        if isinstance(error, StartError):
            raise
        raise StartError(
            "it is not the config of a run of `vissl-swav train` "
            f"({type(error).__name__}: {error}); wanted the train_config.yaml that the "
            "run wrote beside its checkpoints."
        ) from error


@reading_a_run()
def saved_run(cfg: Any) -> SavedRun:
    """From the tree of a `train_config.yaml`.

    Raises:
        StartError: no config of a run, or not one with a loss of ours.
    """
    name = followed_loss(cfg)
    if name not in LOSSES:
        raise StartError(
            f"the run's loss is {name!r}, none of ours; wanted a run of "
            f"{', '.join(LOSSES)}."
        )
    loss = cfg["LOSS"][name]
    crop = image_settings(cfg["DATA"]["TRAIN"]["TRANSFORMS"])
    return SavedRun(
        loss=name,
        temperature=float(loss["temperature"]),
        epsilon=float(loss.get("epsilon", EPSILON)),
        num_prototypes=_num_prototypes(name, loss),
        model=dict(cfg["MODEL"]),
        optimizer=dict(cfg["OPTIMIZER"]),
        **crop,
    )


def _num_prototypes(name: str, loss: Mapping[str, Any]) -> tuple[int, ...]:
    if not LOSSES[name].has_prototypes:
        return ()
    return tuple(map(int, loss["num_prototypes"]))


def image_settings(transforms: Any) -> dict[str, Any]:
    """Size, channels and numbers of normalisation, of our transform or the host's."""
    found: dict[str, Any] = {"channels": 3, "mean": None, "std": None}
    for entry in transforms:
        if entry["name"] == parts.TRANSFORM_NAME:
            made = parts.multi_crop(entry)
            numbers = made.normalization
            return {
                "crop_size": max(group.size for group in made.groups),
                "channels": made.channels,
                "mean": tuple(numbers.mean),
                "std": tuple(numbers.std),
            }
        if "size_crops" in entry:
            found["crop_size"] = int(max(entry["size_crops"]))
        elif entry["name"] == "RandomResizedCrop":
            found["crop_size"] = int(entry["size"])
        elif entry["name"] == "Normalize":
            found["mean"] = tuple(map(float, entry["mean"]))
            found["std"] = tuple(map(float, entry["std"]))
    if "crop_size" not in found:
        names = [entry["name"] for entry in transforms]
        raise StartError(
            f"no transform of the run says how large its crops are (got {names}); "
            f"wanted {parts.TRANSFORM_NAME}, ImgPilToMultiCrop or RandomResizedCrop."
        )
    return found
