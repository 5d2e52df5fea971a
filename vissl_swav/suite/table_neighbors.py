"""The nearest training images of a few test images, as pictures."""

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vissl_swav.core.neighbor_search import nearest_neighbors
from vissl_swav.data import folders
from vissl_swav.data.decoding import UnreadableImage
from vissl_swav.suite import features, knn
from vissl_swav.suite.table_data import DataSet, Split

SIDE = 72


@dataclass(frozen=True)
class Picture:
    """An image of a data set.

    Attributes:
        image: small; None where it cannot be read.
        name: of the file.
        label: of its class.
        cosine: to the test image; None for the test image itself.
    """

    image: Image.Image | None
    name: str
    label: str
    cosine: float | None


@dataclass(frozen=True)
class Neighbourhood:
    """A test image and the training images nearest to it, nearest first."""

    test: Picture
    nearest: list[Picture]


def neighbourhoods(
    folder: Path, layer: str, data: DataSet, *, images: int = 6, neighbors: int = 6
) -> list[Neighbourhood]:
    """Of test images drawn by class, alike for every trunk.

    Args:
        folder: with features of `data`.
        layer: of the network.
        data: what the features are of; classes must be one an image.
        images: test images.
        neighbors: of each.
    """
    train = features.open_stored(folder, "train", layer)
    test = features.open_stored(folder, "test", layer)
    if test.labels.ndim != 1 or train.labels.ndim != 1:
        return []
    rows = _draw(test.labels, images)
    stored = knn.PreparedRows(test.features, torch.device("cpu"), unit_length=True)
    found = nearest_neighbors(
        knn.PreparedRows(train.features, torch.device("cpu"), unit_length=True),
        train.labels,
        torch.cat([stored[row : row + 1] for row in rows]),
        num_neighbors=min(neighbors, int((train.labels >= 0).sum())),
    )
    names = _class_names(data)
    of_train, of_test = _files(data.train), _files(data.test)
    result = []
    for place, row in enumerate(rows):
        nearest = [
            _picture(of_train[index], _name(names, label), cosine)
            for index, label, cosine in zip(
                found.row[place].tolist(),
                found.label[place].tolist(),
                found.similarity[place].tolist(),
                strict=True,
            )
        ]
        label = _name(names, int(test.labels[row]))
        result.append(Neighbourhood(_picture(of_test[row], label, None), nearest))
    return result


def _draw(labels: torch.Tensor, count: int) -> list[int]:
    """Rows of as many classes as there may be."""
    generator = random.Random(0)
    classes = sorted(set(labels[labels >= 0].tolist()))
    generator.shuffle(classes)
    rows = [
        generator.choice(torch.nonzero(labels == label).flatten().tolist())
        for label in classes[:count]
    ]
    rest = [row for row in range(len(labels)) if row not in rows and labels[row] >= 0]
    more = min(count - len(rows), len(rest))
    return rows + generator.sample(rest, max(more, 0))


def _class_names(data: DataSet) -> list[str]:
    return list(folders.list_images(data.train.images)) if _in_folders(data) else []


def _name(names: list[str], label: int) -> str:
    return names[label] if label < len(names) else str(label)


def _in_folders(data: DataSet) -> bool:
    return data.train.labels is None


def _files(split: Split) -> list[str]:
    """The images in the order of the host's data set."""
    if split.labels is not None:
        return [str(name) for name in np.load(split.images, allow_pickle=False)]
    return [
        str(f) for files in folders.list_images(split.images).values() for f in files
    ]


def _picture(file: str, label: str, cosine: float | None) -> Picture:
    path = Path(file)
    return Picture(_thumbnail(path), path.name, label, cosine)


def _thumbnail(path: Path) -> Image.Image | None:
    try:
        with Image.open(path) as opened:
            opened.draft("RGB", (2 * SIDE, 2 * SIDE))
            small = opened.convert("RGB")
    except (OSError, ValueError, UnreadableImage, Image.DecompressionBombError):
        return None
    side = min(small.size)
    left, top = (small.width - side) // 2, (small.height - side) // 2
    box = (left, top, left + side, top + side)
    return small.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)
