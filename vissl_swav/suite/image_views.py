"""One deterministic view of each image, in batches, unreadable images left out.

The view is the centre: the image's shorter side is brought to 8/7 of the crop's side
(256 for 224), and the crop is cut out of the middle. Cut first and resized once, which
is the same pixels up to the border, by the pixel code of the training crops.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vissl_swav.data.decoding import UnreadableImage
from vissl_swav.data.findings import num_cores
from vissl_swav.data.image_list import ImageList
from vissl_swav.host.settings.saved_run import SavedRun
from vissl_swav.suite.checkpoint_model import CheckpointModel
from vissl_swav.transforms.crop_parameters import Box, CropParameters
from vissl_swav.transforms.multicrop import MultiCrop

CENTRE_SHARE = 7 / 8
MAX_WORKERS = 8
Report = Callable[[int, int], None]


class CentreView:
    """Encoded image to (channels, size, size), normalised as in the run."""

    def __init__(self, run: SavedRun):
        self.size = run.crop_size
        self._make = MultiCrop(
            size_crops=[run.crop_size],
            num_crops=[1],
            crop_scales=[(1.0, 1.0)],
            mean=run.mean,
            std=run.std,
            channels=run.channels,
        )

    def __call__(self, image: object, image_size: tuple[int, int]) -> Tensor:
        """The view of an image of (width, height) pixels."""
        cut = CropParameters(size=self.size, box=centre_box(image_size))
        return self._make.apply(image, cut)  # pyright: ignore[reportArgumentType]


def centre_box(image_size: tuple[int, int]) -> Box:
    """The square in the middle, 7/8 of the shorter side wide, at least a pixel."""
    width, height = image_size
    side = max(1, round(CENTRE_SHARE * min(width, height)))
    return Box((height - side) // 2, (width - side) // 2, side, side)


class _Read(NamedTuple):
    """An image's number and its view, or why it cannot be read."""

    index: int
    view: Tensor | None
    reason: str


class _Batch(NamedTuple):
    """Numbers and views of the readable images; numbers and reasons of the others."""

    indices: list[int]
    views: Tensor | None
    unreadable: list[tuple[int, str]]


class _Views(Dataset[_Read]):
    def __init__(self, images: ImageList, view: CentreView):
        self._images, self._view = images, view

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> _Read:
        try:
            image = self._images.read(index)
            return _Read(index, self._view(image, image.size), "")
        except UnreadableImage as error:
            return _Read(index, None, error.reason)


@dataclass
class Embedded:
    """Features of the images that can be read.

    Attributes:
        features: Z (N, D), unit rows, float32.
        indices: (N,) their numbers in the image list, ascending.
        unreadable: (name, reason) of the images left out.
    """

    features: Tensor
    indices: Tensor
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def embed(
    images: ImageList,
    model: CheckpointModel,
    *,
    batch_size: int = 64,
    num_workers: int | None = None,
    report: Report | None = None,
) -> Embedded:
    """Features of every readable image, in the list's order.

    Args:
        images: opened by `image_list.open_images`.
        model: in eval mode, so that batches do not matter.
        batch_size: images in a forward pass.
        num_workers: processes that decode; None is one a core, 8 at most, none where
            there is a single batch.
        report: called with (images done, images).
    """
    features, indices = [], []
    unreadable: list[tuple[str, str]] = []
    done = 0
    for batch in _batches(images, model.run, batch_size, num_workers):
        unreadable += [(images.name(index), why) for index, why in batch.unreadable]
        if batch.views is not None:
            features.append(model.features(batch.views))
            indices += batch.indices
        done += len(batch.indices) + len(batch.unreadable)
        if report is not None:
            report(done, len(images))
    dim = model.prototypes[0].shape[1]
    stacked = torch.cat(features) if features else torch.empty(0, dim)
    return Embedded(stacked, torch.tensor(indices, dtype=torch.long), unreadable)


def _batches(
    images: ImageList, run: SavedRun, batch_size: int, num_workers: int | None
) -> Iterator[_Batch]:
    if num_workers is None:
        num_workers = min(MAX_WORKERS, num_cores())
        num_workers = 0 if len(images) <= batch_size else num_workers
    loader = DataLoader(
        _Views(images, CentreView(run)),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_collate,
        worker_init_fn=_one_thread,
    )
    yield from loader


def _collate(reads: list[_Read]) -> _Batch:
    # Stacked in the worker: a tensor costs a file descriptor on its way.
    good = [read for read in reads if read.view is not None]
    views = [read.view for read in good if read.view is not None]
    return _Batch(
        [read.index for read in good],
        torch.stack(views) if views else None,
        [(read.index, read.reason) for read in reads if read.view is None],
    )


def _one_thread(_: int) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
