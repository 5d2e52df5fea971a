"""`vissl-swav knn`: the k-NN classifier on frozen features, many k at once."""

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from vissl_swav.core.collective import LOCAL, Collective
from vissl_swav.core.nearest_neighbors import knn_predict, top_accuracy
from vissl_swav.core.neighbor_search import Rows
from vissl_swav.data.errors import DataError
from vissl_swav.suite import feature_command, features
from vissl_swav.suite.device import find_device
from vissl_swav.suite.features import FeatureSet

NUM_NEIGHBORS = (20, 200)
TEMPERATURES = (0.1,)


class KnnResult(NamedTuple):
    """Accuracy in per cent of one k and temperature.

    Attributes:
        k: neighbours asked for.
        temperature: of the votes.
        top1: the best class is the label.
        top5: one of the best five is.
        used: neighbours that voted; fewer than k where there are fewer labelled
            training images.
    """

    k: int
    temperature: float
    top1: float
    top5: float
    used: int


def evaluate(
    train: FeatureSet,
    test: FeatureSet,
    *,
    num_neighbors: Sequence[int] = NUM_NEIGHBORS,
    temperatures: Sequence[float] = TEMPERATURES,
    unit_length: bool = True,
    device: str = "auto",
    collective: Collective = LOCAL,
    report: Callable[[int, int], object] | None = None,
) -> list[KnnResult]:
    """Classify the test images by their neighbours in the training set.

    Args:
        train: labels (N,); images of -1 are left out. With several processes, this
            one's part of them. Features in files (`features.open_stored`) are read
            once, by chunks.
        test: labels (M,); images of -1 do not count. The same on all processes.
        num_neighbors: the k.
        temperatures: of the votes exp(similarity / temperature).
        unit_length: compare cosines; else inner products.
        device: auto (CUDA where there is one), cpu, cuda or cuda:N.
        collective: the processes.
        report: called with (training images done, N).

    Returns:
        One result for each k and temperature, k first.

    Raises:
        DataError: labels of several classes an image, or no labelled image.
        StartError: no such device.
        ValueError: shapes or numbers that do not fit.
    """
    _check_labels(train, "training")
    _check_labels(test, "test")
    place = find_device(device)
    labelled = collective.all_reduce_sum((train.labels >= 0).sum().to(place))
    total = int(labelled)
    if total == 0 or not bool((test.labels >= 0).any()):
        raise DataError("no image with a label in the training or the test set.")
    used = {k: min(k, total) for k in num_neighbors}
    predictions = knn_predict(
        PreparedRows(train.features, place, unit_length),
        train.labels.to(place),
        PreparedRows(test.features, place, unit_length)[:],
        num_neighbors=sorted(set(used.values())),
        temperatures=temperatures,
        collective=collective,
        report=report,
    )
    labels = test.labels.to(place)
    return [
        KnnResult(
            k,
            temperature,
            100.0 * top_accuracy(predictions[used[k], temperature], labels, top=1),
            100.0 * top_accuracy(predictions[used[k], temperature], labels, top=5),
            used[k],
        )
        for k in num_neighbors
        for temperature in temperatures
    ]


class PreparedRows:
    """Rows on the device of the search, of unit length where cosines are wanted."""

    def __init__(self, rows: Rows, device: torch.device, unit_length: bool):
        self._rows, self._device, self._unit_length = rows, device, unit_length

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""
        return tuple(self._rows.shape)

    def __getitem__(self, rows: slice, /) -> Tensor:
        chunk = self._rows[rows].to(self._device, torch.float32)
        return normalize(chunk, dim=1) if self._unit_length else chunk


def _check_labels(images: FeatureSet, name: str) -> None:
    if images.labels.ndim != 1 or len(images.labels) != images.features.shape[0]:
        raise DataError(
            f"the {name} labels have shape {tuple(images.labels.shape)} for "
            f"{images.features.shape[0]} images; k-NN needs one class number an image. "
            "(For several classes an image there is vissl-swav svm.)"
        )


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code (2 for bad input)."""
    return feature_command.run("knn", options, _of_layer)


def _of_layer(job: feature_command.Job, layer: str) -> feature_command.Outcome:
    train = features.open_stored(job.folder, "train", layer)
    test = features.open_stored(job.folder, "test", layer)
    settings, options = job.settings, job.options
    arguments = {
        "num_neighbors": options.k or (settings and settings.num_neighbors),
        "temperatures": options.temperature or (settings and settings.temperatures),
    }
    given = {name: value for name, value in arguments.items() if value}
    # The command line goes before the config.
    unit_length = not options.inner_product
    if settings and unit_length:
        unit_length = settings.unit_length
    try:
        results = evaluate(
            train,
            test,
            unit_length=unit_length,
            device=options.device,
            report=job.progress(f"k-NN on {layer}"),
            **given,
        )
    except ValueError as error:
        raise DataError(f"features of {layer} in {job.folder}: {error}") from error
    for k, used in sorted({(r.k, r.used) for r in results if r.used < r.k}):
        job.warn(f"{k} neighbours, but {used} labelled training images: {used} used.")
    left_out = [int((images.labels < 0).sum()) for images in (train, test)]
    if any(left_out):
        job.warn(f"{left_out[0]} training and {left_out[1]} test images have no label.")
    return feature_command.Outcome(
        facts={
            "similarity": "cosine" if unit_length else "inner product",
            "train_images": len(train.labels),
            "train_unlabelled": left_out[0],
            "test_images": len(test.labels),
            "test_unlabelled": left_out[1],
            "results": [result._asdict() for result in results],
        },
        columns=("k", "temperature", "top-1 %", "top-5 %"),
        rows=[
            (str(r.k), f"{r.temperature:g}", f"{r.top1:.2f}", f"{r.top5:.2f}")
            for r in results
        ],
    )
