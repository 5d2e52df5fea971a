"""Features that the host's extraction engine wrote, in the order of the data set.

The engine writes, for each process and chunk, `rank0_chunk0_train_LAYER_features.npy`
and the same with `targets` and `inds`, the images' numbers. The processes' parts lie
interleaved, and the few images that the sampler gave to two processes twice. The host's
own loader gathers them row by row in Python and holds them twice; here the files are
memory-mapped, and opened when their rows are wanted: by default there is one a batch,
more than a process may hold open. VISSL is not needed to read them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vissl_swav.core.neighbor_search import Rows
from vissl_swav.data.errors import DataError

_KINDS = ("features", "targets", "inds")
# Rows that `load` copies at a time.
_ROWS = 4096


class FeatureSet(NamedTuple):
    """Features of a set of images and their labels.

    Attributes:
        features: (N, D), as the network gave them; a tensor, or `StoredRows`.
        labels: (N,) int64 class numbers, -1 for an image without one; or (N, C) with 1
            for a class that is present, 0 for one that is not, -1 to be ignored.
    """

    features: Rows
    labels: Tensor


class StoredRows:
    """Rows that lie in files, read by slices: (N, D) float32, on the CPU.

    Args:
        files: of arrays (n, ...).
        file: (N,) the file of each row.
        place: (N,) its place in that file.
        dimension: D.
    """

    def __init__(
        self,
        files: Sequence[Path],
        file: np.ndarray,
        place: np.ndarray,
        dimension: int,
    ):
        self._files, self._file, self._place = files, file, place
        self.shape = (len(place), dimension)

    def __getitem__(self, rows: slice, /) -> Tensor:
        """Consecutive rows (n, D)."""
        file, place = self._file[rows], self._place[rows]
        out = np.empty((len(place), self.shape[1]), dtype=np.float32)
        for number in np.unique(file):
            here = file == number
            stored = np.load(self._files[number], mmap_mode="r")
            out[here] = stored[place[here]].reshape(-1, self.shape[1])
        return torch.from_numpy(out)


def load(folder: Path | str, split: str, layer: str) -> FeatureSet:
    """The features (N, D) float32 and labels of a split, in memory once.

    Args:
        folder: that the host's `extract_features` engine wrote to.
        split: train or test.
        layer: of the network, `heads` for its output.

    Raises:
        DataError: no such features, or files that do not belong together.
    """
    stored = open_stored(folder, split, layer)
    features = torch.empty(tuple(stored.features.shape))
    for start in range(0, len(features), _ROWS):
        features[start : start + _ROWS] = stored.features[start : start + _ROWS]
    return FeatureSet(features, stored.labels)


def open_stored(folder: Path | str, split: str, layer: str) -> FeatureSet:
    """The same, the features left in their files until their slices are asked for.

    Raises:
        DataError: no such features, or files that do not belong together.
    """
    shards = [_Shard.open(stem) for stem in _stems(Path(folder), split, layer)]
    shapes = {shard.shape for shard in shards}
    if len(shapes) > 1:
        raise DataError(
            f"the {split} features of {layer} in {folder} have rows of different "
            f"shapes ({', '.join(map(str, sorted(shapes)))}): files of several "
            "extractions. Extract into an empty folder."
        )
    images = np.concatenate([shard.images for shard in shards])
    labels = np.concatenate([shard.labels for shard in shards])
    sizes = [len(shard.images) for shard in shards]
    order = np.argsort(images, kind="stable")
    repeated = np.zeros(len(order), dtype=bool)
    repeated[1:] = np.diff(images[order]) == 0
    twins = repeated[1:] & (labels[order][1:] != labels[order][:-1]).any(axis=1)
    if twins.any():
        raise DataError(
            f"{folder} holds image {images[order][1:][twins][0]} of {split} twice, "
            "with different labels: files of several extractions. Extract into an "
            "empty folder."
        )
    kept = order[~repeated]
    file = np.repeat(np.arange(len(shards), dtype=np.int32), sizes)
    place = np.concatenate([np.arange(size) for size in sizes])
    dimension = int(np.prod(shapes.pop()))
    files = [shard.file for shard in shards]
    rows = StoredRows(files, file[kept], place[kept], dimension)
    of_rows = torch.from_numpy(np.ascontiguousarray(labels[kept]))
    return FeatureSet(rows, of_rows.view(-1) if of_rows.shape[1] == 1 else of_rows)


def layers(folder: Path | str) -> list[str]:
    """The layers with features of both `train` and `test`, by name.

    Raises:
        DataError: there is no such folder, or none such in it.
    """
    of_split = {
        split: {
            stem.name.split(f"_{split}_", 1)[1] for stem in _all_stems(folder, split)
        }
        for split in ("train", "test")
    }
    both = sorted(of_split["train"] & of_split["test"])
    if not both:
        there = {split: sorted(names) for split, names in of_split.items()}
        raise DataError(
            f"{folder} holds no layer with train and test features (there are "
            f"{there}); wanted files like rank0_chunk0_train_LAYER_features.npy, which "
            "VISSL's engine extract_features writes."
        )
    return both


def holds_features(folder: Path | str) -> bool:
    """Whether an extraction has written there."""
    found = Path(folder).glob("rank*_chunk*_*_features.npy")
    return next(found, None) is not None


def knn_accuracy(
    folder: Path,
    layer: str,
    *,
    num_neighbors: Sequence[int] = (20,),
    temperature: float = 0.1,
) -> dict[int, float]:
    """Top-1 accuracy in per cent of `knn.evaluate`, for each k."""
    from vissl_swav.suite import knn

    train, test = load(folder, "train", layer), load(folder, "test", layer)
    results = knn.evaluate(
        train,
        test,
        num_neighbors=num_neighbors,
        temperatures=(temperature,),
        device="cpu",
    )
    return {result.k: result.top1 for result in results}


class _Shard(NamedTuple):
    """One process's chunk.

    Attributes:
        file: that holds the features (n, ...).
        shape: of the features of an image.
        labels: (n, C).
        images: their numbers (n,).
    """

    file: Path
    shape: tuple[int, ...]
    labels: np.ndarray
    images: np.ndarray

    @classmethod
    def open(cls, stem: Path) -> "_Shard":
        files = [stem.with_name(f"{stem.name}_{kind}.npy") for kind in _KINDS]
        try:
            features = np.load(files[0], mmap_mode="r")
            arrays = features, np.load(files[1]), np.load(files[2])
            shapes = [array.shape for array in arrays]
        # Of a broken header numpy's reader raises whatever parsing it leads to.
        except Exception as error:
            raise DataError(
                f"{stem}_*.npy cannot be read ({error}); extract the features again."
            ) from error
        if not all(_is_numbers(array) for array in arrays):
            raise DataError(
                f"{stem}_*.npy hold arrays of the shapes {shapes} and the kinds "
                f"{[str(array.dtype) for array in arrays]}; wanted features, targets "
                "and numbers of images, of one image or more. Extract the features "
                "again."
            )
        _, labels, images = arrays
        shape, images = shapes[0], images.reshape(-1)
        if not shape[0] == len(labels) == len(images):
            raise DataError(
                f"{stem}_*.npy hold {shape[0]} features, {len(labels)} targets "
                f"and {len(images)} numbers of images; wanted as many of each. Extract "
                "the features again."
            )
        labels = labels.reshape(len(labels), -1)
        if not np.array_equal(labels, labels.astype(np.int64)):
            raise DataError(f"{files[1]} holds labels that are no whole numbers.")
        return cls(files[0], shape[1:], labels.astype(np.int64), images)


def _is_numbers(array: np.ndarray) -> bool:
    return array.ndim > 0 and array.size > 0 and array.dtype.kind in "biuf"


def _stems(folder: Path, split: str, layer: str) -> list[Path]:
    """Paths without `_features.npy`, by process and chunk."""
    found = [
        stem for stem in _all_stems(folder, split) if stem.name.endswith(f"_{layer}")
    ]
    found = [s for s in found if s.name.split(f"_{split}_", 1)[1] == layer]
    if not found:
        there = sorted({s.name.split("_", 2)[2] for s in _all_stems(folder, "*")})
        raise DataError(
            f"{folder} holds no {split} features of the layer {layer}; there are "
            f"{', '.join(there) or 'none at all'}."
        )
    return sorted(found, key=_rank_and_chunk)


def _all_stems(folder: Path | str, split: str) -> list[Path]:
    if not Path(folder).is_dir():
        raise DataError(f"{folder} is no folder; wanted one that holds features.")
    files = Path(folder).glob(f"rank*_chunk*_{split}_*_features.npy")
    return [f.with_name(f.name.removesuffix("_features.npy")) for f in files]


def _rank_and_chunk(stem: Path) -> tuple[int, int]:
    rank, chunk = stem.name.split("_")[:2]
    return int(rank.removeprefix("rank")), int(chunk.removeprefix("chunk"))
