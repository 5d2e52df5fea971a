"""What a run's `train_config.yaml` says to those who evaluate its trunk."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vissl_swav.host.errors import StartError
from vissl_swav.host.settings.saved_run import image_settings, reading_a_run

# The layer of each trunk of the host's that gives one row of features an image.
FINAL_LAYERS = {
    "resnet": "res5avg",
    "resnext": "res5avg",
    "resnet_small": "res5avg",
    "regnet": "avgpool",
    "efficientnet": "avgpool",
    "vision_transformer": "lastCLS",
    "convit": "lastCLS",
    "xcit": "lastCLS",
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class SavedTrunk:
    """A trunk, and the images that it was trained on.

    Attributes:
        name: the host's name of the trunk.
        settings: dotted keys below `MODEL.TRUNK` and their values, where they differ
            from the host's.
        feature_dim: numbers in the features of an image.
        layer: the host's name of the layer that gives them.
        crop_size: side of the largest crops, in pixels.
        channels: of an image, 1 or 3.
        mean: of each channel.
        std: of each channel.
        method: the loss of the run.
        batch_size: images in a step, over all processes.
        num_epochs: of the run.
        train_paths: the run's images.
    """

    name: str
    settings: Mapping[str, Any]
    feature_dim: int
    layer: str
    crop_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    method: str
    batch_size: int
    num_epochs: int
    train_paths: tuple[str, ...]


@reading_a_run()
def saved_trunk(cfg: Any) -> SavedTrunk:
    """From the tree of a `train_config.yaml`, of a run with any loss.

    Raises:
        StartError: no config of a run, or a trunk that we cannot evaluate.
    """
    model, data = cfg["MODEL"], cfg["DATA"]["TRAIN"]
    name = str(model["TRUNK"]["NAME"])
    if name not in FINAL_LAYERS:
        raise StartError(
            f"the run's trunk is {name}; its final features are known of "
            f"{', '.join(FINAL_LAYERS)}."
        )
    images = image_settings(data["TRANSFORMS"])
    channels = images["channels"]
    shape = cfg["DISTRIBUTED"]
    return SavedTrunk(
        name=name,
        settings=trunk_settings(model["TRUNK"]),
        feature_dim=_feature_dim(model),
        layer=FINAL_LAYERS[name],
        crop_size=images["crop_size"],
        channels=channels,
        mean=images["mean"] or IMAGENET_MEAN[:channels],
        std=images["std"] or IMAGENET_STD[:channels],
        method=str(cfg["LOSS"]["name"]),
        batch_size=int(data["BATCHSIZE_PER_REPLICA"])
        * int(shape["NUM_NODES"])
        * int(shape["NUM_PROC_PER_NODE"]),
        num_epochs=int(cfg["OPTIMIZER"]["num_epochs"]),
        train_paths=tuple(map(str, data.get("DATA_PATHS") or ())),
    )


def _feature_dim(model: Any) -> int:
    """What the first head takes: its first width."""
    _, settings = model["HEAD"]["PARAMS"][0]
    return int(settings["dims"][0])


def trunk_settings(trunk: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys below `MODEL.TRUNK` whose values are not the host's defaults.

    The settings of the run's own kind of ResNet are all named: the host's evaluations
    set some of them.
    """
    usual = dict(_leaves(_host_defaults()["config"]["MODEL"]["TRUNK"]))
    own = "RESNETS." if trunk["NAME"] in ("resnet", "resnext") else None
    return {
        key: value
        for key, value in _leaves(trunk)
        if key != "NAME"
        and (usual.get(key, ...) != value or (own and key.startswith(own)))
    }


def _leaves(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            if value:
                yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _host_defaults() -> dict[str, Any]:
    import vissl

    file = Path(str(vissl.__file__)).parent / "config" / "defaults.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))
