"""`predictor(path)`: a model in eval mode and the transform of its images.

A run of `vissl-swav train` is built by VISSL from its `train_config.yaml`; any other
file must hold a ResNet, which is built from its tensors.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from vissl_swav.data.decoding import EncodedImage, UnreadableImage
from vissl_swav.host.settings.saved_run import SavedRun
from vissl_swav.suite.checkpoint_model import (
    CONFIG_NAME,
    CheckpointModel,
    embeddings,
    find_checkpoint,
    load_model,
)
from vissl_swav.suite.device import find_device
from vissl_swav.suite.image_views import CentreView
from vissl_swav.transforms.image_input import size_of
from vissl_swav.weights.errors import WeightsError
from vissl_swav.weights.loading import LoadedWeights, load_weights
from vissl_swav.weights.plain_head import PlainModel
from vissl_swav.weights.plain_resnet import PlainResNet, stem_padding_of

_SIZE, _SMALL_SIZE = 224, 32


@dataclass(frozen=True)
class ImageShape:
    """What a model takes: side in pixels, channels, numbers of normalisation."""

    crop_size: int
    channels: int
    mean: Sequence[float] | None
    std: Sequence[float] | None


class CentreTransform:
    """An image to the normalised centre (C, S, S): 224 of 256 pixels, say.

    Takes a path, a PIL image, a uint8 array (height, width, channels) or tensor
    (channels, height, width). A float tensor is taken for transformed already.
    """

    def __init__(self, shape: ImageShape):
        self.shape = shape
        self._view = CentreView(cast(Any, shape))

    def __call__(self, image: Any) -> Tensor:
        """The view of one image.

        Raises:
            UnreadableImage: a folder, or a file that is no image.
            OSError: no such file.
            TypeError: no image.
            ValueError: a tensor of another shape.
        """
        if isinstance(image, Tensor):
            channels = self.shape.channels
            if image.dim() != 3 or image.shape[0] != channels:
                raise ValueError(
                    f"got a tensor of shape {tuple(image.shape)}; wanted "
                    f"({channels}, height, width): uint8, or float and normalised."
                )
            if image.is_floating_point():
                return image.float()
            image = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
        if isinstance(image, (str, os.PathLike)):
            if Path(image).is_dir():
                raise UnreadableImage(os.fspath(image), "it is a folder, no image")
            image = EncodedImage(Path(image).read_bytes(), os.fspath(image))
        return self._view(image, size_of(image))


class Predictor(NamedTuple):
    """`model, transform = predictor(path)`, or called with images.

    Attributes:
        model: images (B, C, S, S) to features (B, D), in eval mode; of a head a tuple,
            with the cosines (B, K) to the prototypes of each head behind the features.
        transform: one image to (C, S, S).
    """

    model: nn.Module
    transform: CentreTransform

    @torch.inference_mode()
    def __call__(self, images: Any) -> Tensor:
        """Features (B, D) on the CPU, float32.

        Args:
            images: one image (B is 1), a list of them, or a batch (B, C, H, W).

        Raises:
            ValueError: no image, or of other channels; or as `CentreTransform`.
        """
        if isinstance(images, Tensor) and images.dim() == 4:
            channels = self.transform.shape.channels
            if not len(images) or images.shape[1] != channels:
                raise ValueError(
                    f"got a batch of shape {tuple(images.shape)}; wanted one or more "
                    f"images of {channels} channels: (B, {channels}, height, width)."
                )
            batch = images
            if not images.is_floating_point():
                batch = torch.stack([self.transform(image) for image in images])
        else:
            several = isinstance(images, (list, tuple))
            listed = images if several else [images]
            if not listed:
                raise ValueError("got no image; wanted one, or a list of one or more.")
            batch = torch.stack([self.transform(image) for image in listed])
        device = next(self.model.parameters()).device
        found = self.model(batch.to(device, torch.float32))
        return (found[0] if isinstance(found, tuple) else found).float().cpu()


class HostModel(nn.Module):
    """A run's own trunk, or its head: as `PlainResNet` and `PlainModel` answer."""

    def __init__(self, built: CheckpointModel, *, has_head: bool):
        super().__init__()
        self.run: SavedRun = built.run
        self.has_head = has_head
        # Not the whole: what VISSL's model leaves undefined stops the tracing of it.
        whole: Any = built.model
        self.trunk = whole.trunk
        self.heads = whole.heads if has_head else nn.ModuleList()
        for number, C in enumerate(built.prototypes if has_head else ()):
            self.register_buffer(f"prototypes{number}", C.to(built.device))
        self.eval().requires_grad_(False)

    @classmethod
    def of_run(
        cls, path: Path, config: Path, *, has_head: bool, device: str = "cpu"
    ) -> "HostModel":
        """Raises `StartError`: the config does not describe the checkpoint's model."""
        built = load_model(path, config=config, device=device)
        return cls(built, has_head=has_head)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, C, H, W) to (B, D); of a head, also cosines (B, K) to its prototypes."""
        # As VISSL's own model asks its trunk for the last features.
        features = self.trunk(images, [])[-1]
        if not self.has_head:
            return features.flatten(1)
        for head in self.heads:
            features = head(features)
        Z = nn.functional.normalize(embeddings(features), dim=1)
        return (Z, *(Z @ C.t() for _, C in self.named_buffers(recurse=False)))


def predictor(
    path: str | os.PathLike[str],
    *,
    part: str = "trunk",
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    device: str = "auto",
    config: str | os.PathLike[str] | None = None,
) -> Predictor:
    """A trained model and its transform, from a checkpoint of ours or of others.

    Args:
        path: a run's folder, or a file of any layout that `load_weights` knows.
        part: "trunk" for its features (2048 wide for a ResNet-50), "all" for the unit
            features of the projection head.
        size: side of the images in pixels; None is that of the run's largest crops,
            else 224, or 32 for a ResNet with a 3x3 stem.
        mean: of each channel, for levels in [0, 1]; None is the run's, else ImageNet's.
        std: of each channel; None is the run's, else ImageNet's.
        device: "cpu", "cuda", or "auto" for the GPU where there is one.
        config: the run's `train_config.yaml`; by default the one beside the file.

    Raises:
        WeightsError: no weights, or no ResNet and no config that says what it is; or
            a part, size, mean or std that cannot be.
        StartError: the config does not describe the checkpoint's model, or no such
            device.
    """
    if part not in ("trunk", "all"):
        raise WeightsError(f"part is {part!r}; wanted trunk or all.")
    if size is not None and not (isinstance(size, int | np.integer) and size > 0):
        raise WeightsError(f"size is {size!r}; wanted a whole number of pixels.")
    place = find_device(device)
    has_head = part == "all"
    file = find_checkpoint(Path(path))
    run = run_config(file, None if config is None else Path(config))
    if run is not None:
        model: nn.Module = HostModel.of_run(file, run, has_head=has_head, device=device)
        saved = cast(HostModel, model).run
        shape = ImageShape(saved.crop_size, saved.channels, saved.mean, saved.std)
    else:
        model, trunk = build_plain(load_weights(file, part), has_head=has_head)
        side = _SMALL_SIZE if trunk.is_small else _SIZE
        shape = ImageShape(side, trunk.channels, None, None)
        model = model.to(place)
    shape = ImageShape(
        shape.crop_size if size is None else int(size),
        shape.channels,
        shape.mean if mean is None else _levels("mean", mean, shape.channels),
        shape.std if std is None else _levels("std", std, shape.channels),
    )
    return Predictor(model, CentreTransform(shape))


def _levels(name: str, given: Sequence[float], channels: int) -> list[float]:
    """A list, tuple, array or tensor of a number a channel."""
    try:
        found = [float(value) for value in given]
    except (TypeError, ValueError):
        found = []
    if len(found) != channels or (name == "std" and not min(found) > 0.0):
        above = " above 0" if name == "std" else ""
        raise WeightsError(
            f"{name} is {given!r}; wanted {channels} numbers{above}, one a channel."
        )
    return found


def run_config(file: Path, config: Path | None) -> Path | None:
    """The `train_config.yaml` of a run's checkpoint; None for a file without one."""
    if config is not None:
        return config
    beside = file.parent / CONFIG_NAME
    return beside if beside.is_file() else None


def build_plain(
    weights: LoadedWeights, *, has_head: bool
) -> tuple[nn.Module, PlainResNet]:
    """The net of the tensors, with its head or without; and its trunk.

    Raises:
        WeightsError: no ResNet with torchvision's parts, or a head of other parts.
    """
    padding = stem_padding_of(weights.layout)
    trunk = PlainResNet(weights.trunk, stem_padding=padding)
    return (PlainModel(trunk, weights.tensors) if has_head else trunk), trunk
