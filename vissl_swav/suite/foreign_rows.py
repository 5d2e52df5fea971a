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
from vissl_swav.weights.plain_resnet import stem_padding_of
from vissl_swav.weights.resnet_shape import resnet_shape
from vissl_swav.weights.tensor_files import write_vissl
from vissl_swav.weights.whole_file import whole_file

_STEM = 64  # Channels of an ImageNet ResNet's first convolution.


def foreign_trunk(file: Path) -> SavedTrunk:
    """What the trunk in a file is.

    Raises:
        StartError: no weights, or of a net that the host cannot build.
    """
    weights = _read(file)
    name, settings, feature_dim = _resnet(weights.trunk, file)
    if name == "resnet_small" and stem_padding_of(weights.layout) != 1:
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
    shape = resnet_shape(trunk)
    if shape is not None and shape.depth is not None:
        channels, kernel = shape.stem[0], shape.stem[-1]
        is_plain = (shape.width, shape.groups) == (channels, 1)
        if shape.is_bottleneck and kernel == 7 and is_plain and channels % _STEM == 0:
            settings = {
                "RESNETS.DEPTH": shape.depth,
                "RESNETS.WIDTH_MULTIPLIER": channels // _STEM,
            }
            return "resnet", settings, shape.feature_dim
        if not shape.is_bottleneck and kernel == 3:
            settings = {
                "RESNET_SMALL.DEPTH": shape.depth,
                "RESNET_SMALL.WIDTH": channels,
            }
            return "resnet_small", settings, shape.feature_dim
    raise StartError(
        f"{file} holds a trunk that the table cannot build ({shape or 'no ResNet'}); "
        "wanted a ResNet-50, -101 or -152, also a wide one, with a 7x7 stem, or a "
        "ResNet-18 or -34 with a 3x3 stem; or a run of `vissl-swav train` with its "
        "config."
    )
