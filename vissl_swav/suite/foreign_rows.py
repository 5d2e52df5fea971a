"""Weights of others as rows of a table: authors', torchvision's, timm's, lightly's, ...

A file without a run's config beside it must hold a ResNet that VISSL or we can build;
its depth and width follow from its tensors. It is written once in VISSL's layout, which
the host's benchmarks load.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from vissl_swav.host.errors import StartError
from vissl_swav.host.settings.saved_trunk import (
    FINAL_LAYERS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    SavedTrunk,
)
from vissl_swav.weights.errors import WeightsError
from vissl_swav.weights.loading import LoadedWeights, load_weights
from vissl_swav.weights.tensor_files import write_vissl
from vissl_swav.weights.whole_file import whole_file

_BOTTLENECK: dict[tuple[int, ...], int] = {
    (3, 4, 6, 3): 50,
    (3, 4, 23, 3): 101,
    (3, 8, 36, 3): 152,
}
_BASIC: dict[tuple[int, ...], int] = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 34}
_STEM = 64  # Channels of an ImageNet ResNet's first convolution.
SOLO_LEARN = "solo-learn"


def foreign_trunk(file: Path) -> SavedTrunk:
    """What the trunk in a file is.

    Raises:
        StartError: no weights, or of a net that the host cannot build.
    """
    weights = _read(file)
    name, settings, feature_dim = _resnet(weights.trunk, file)
    if name == "resnet_small" and weights.layout.startswith(SOLO_LEARN):
        raise StartError(
            f"{file} is solo-learn's ResNet for small images, whose first convolution "
            "pads by 2: our resnet_small pads by 1 and would give other features."
        )
    return SavedTrunk(
        name=name,
        settings=settings,
        feature_dim=feature_dim,
        layer=FINAL_LAYERS[name],
        crop_size=32 if name == "resnet_small" else 224,
        channels=weights.trunk["conv1.weight"].shape[1],
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        method=weights.layout,
        batch_size=0,
        num_epochs=0,
        train_paths=(),
    )


def in_hosts_layout(file: Path, target: Path) -> Path:
    """The file's trunk as a file of VISSL's, written once."""
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as scratch:
            write_vissl(_read(file), scratch)
    return target


def _read(file: Path) -> LoadedWeights:
    try:
        return load_weights(file, "trunk")
    except WeightsError as error:
        raise StartError(
            f"{error} (It has no train_config.yaml beside it, so it was read as a file "
            "of weights alone.)"
        ) from error


def _resnet(trunk: Mapping[str, Tensor], file: Path) -> tuple[str, dict[str, int], int]:
    """The host's name of the trunk, its settings and the size of its features."""
    counts = tuple(
        len({name.split(".")[1] for name in trunk if name.startswith(f"layer{i}.")})
        for i in range(1, 5)
    )
    stem = trunk.get("conv1.weight")
    bottleneck = "layer1.0.conv3.weight" in trunk
    last = trunk.get(f"layer4.0.conv{3 if bottleneck else 2}.weight")
    if stem is not None and last is not None:
        channels, kernel = stem.shape[0], stem.shape[-1]
        inner = trunk["layer1.0.conv2.weight"]
        plain = inner.shape[0] == inner.shape[1] == channels
        if bottleneck and counts in _BOTTLENECK and kernel == 7 and plain:
            settings = {"DEPTH": _BOTTLENECK[counts]}
            if channels % _STEM == 0:
                settings["WIDTH_MULTIPLIER"] = channels // _STEM
                names = {f"RESNETS.{key}": value for key, value in settings.items()}
                return "resnet", names, last.shape[0]
        if not bottleneck and counts in _BASIC and kernel == 3:
            names = {
                "RESNET_SMALL.DEPTH": _BASIC[counts],
                "RESNET_SMALL.WIDTH": channels,
            }
            return "resnet_small", names, last.shape[0]
    raise StartError(
        f"{file} holds a trunk that the table cannot build (blocks {counts}); wanted "
        "a ResNet-50, -101 or -152, also a wide one, with a 7x7 stem, or a ResNet-18 "
        "or -34 with a 3x3 stem; or a run of `vissl-swav train` with its config."
    )
