"""`vissl-swav low-shot-svm`: linear SVMs on a few images a class, drawn several times.

For each k and each draw: k positive images of a class and, with labels (N, C),
(C - 1) k negative ones; with labels (N,), the k images of every other class. An SVM for
each class and cost, tested on the whole test set by VOC's average precision. As in
VISSL's tool (and Goyal et al. 2019, arXiv 1905.01235), the cost is the one whose mean
over classes and draws is best **on the test set**; the means of all costs are reported
with it.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed

from vissl_swav.data.errors import DataError
from vissl_swav.suite import feature_command, features, svm
from vissl_swav.suite.features import FeatureSet
from vissl_swav.suite.svm_classifier import (
    NEGATIVE,
    POSITIVE,
    Solver,
    precisions,
    prepared,
)
from vissl_swav.suite.svm_problem import check_labels, features_of, most_jobs

K_VALUES = (1, 2, 4, 8, 16, 32, 64, 96)
NUM_SAMPLES = 5


@dataclass(frozen=True)
class LowShotResult:
    """Mean average precision in per cent with k images a class.

    Attributes:
        metric: `mean_ap`.
        k: positive images of a class.
        mean: over the draws, at the best cost.
        min: the worst draw's.
        max: the best draw's.
        std: of the draws.
        cost: the best cost, on the test set.
        costs: the costs tried.
        mean_of_costs: over the draws, for each cost.
        samples: numbers of the draws.
        seed: of the draws, and of the solver.
    """

    metric: str
    k: int
    mean: float
    min: float
    max: float
    std: float
    cost: float
    costs: list[float]
    mean_of_costs: list[float]
    samples: list[int]
    seed: int


class Draw(NamedTuple):
    """Training images of one class: their rows (n,) and signs (n,)."""

    rows: np.ndarray
    signs: np.ndarray


def evaluate(
    train: FeatureSet,
    test: FeatureSet,
    *,
    k_values: Sequence[int] = K_VALUES,
    num_samples: int = NUM_SAMPLES,
    costs: Sequence[float] = svm.COSTS,
    seed: int = 0,
    samples: Sequence[int] | None = None,
    solver: Solver | None = None,
    jobs: int = 1,
    report: Callable[[int, int], object] | None = None,
) -> list[LowShotResult]:
    """Train on a few images of `train`, test on `test`.

    Args:
        train: labels (N, C) or (N,); those of -1 are never drawn.
        test: labels (M, C) or (M,); those of -1 do not count.
        k_values: positive images of a class.
        num_samples: independent draws.
        costs: C of the SVM.
        seed: the same seed, the same draws, whatever the features.
        samples: numbers of the draws, 1 to `num_samples` by default.
        solver: settings; its seed gives way to `seed`.
        jobs: processes.
        report: called with (draws done, all of them).

    Returns:
        One result for each k.

    Raises:
        DataError: labels that do not fit, or fewer images of a class than wanted.
    """
    check_labels(train, test)
    numbers = list(samples or range(1, num_samples + 1))
    if not k_values or min(k_values) < 1 or not numbers or not costs or min(costs) <= 0:
        raise DataError(
            f"k is {list(k_values)}, samples {numbers} and costs {list(costs)}; wanted "
            "one or more of each, all above 0."
        )
    labels = train.labels.numpy()
    draws = {
        (k, number): draw(labels, k, seed=seed, sample=number)
        for k in k_values
        for number in numbers
    }
    return evaluate_draws(
        train,
        test,
        draws,
        costs=costs,
        seed=seed,
        solver=solver,
        jobs=jobs,
        report=report,
    )


def evaluate_draws(
    train: FeatureSet,
    test: FeatureSet,
    draws: dict[tuple[int, int], list[Draw]],
    *,
    costs: Sequence[float],
    seed: int = 0,
    solver: Solver | None = None,
    jobs: int = 1,
    report: Callable[[int, int], object] | None = None,
) -> list[LowShotResult]:
    """The results of given draws: (k, draw's number) -> a `Draw` for each class."""
    solver = replace(solver or Solver(), seed=seed)
    rows = prepared(features_of(train), solver)
    test_rows = prepared(features_of(test), solver)
    targets = list(_targets(train.labels.numpy(), test.labels.numpy()))
    found: dict[int, dict[int, np.ndarray]] = {}
    with Parallel(n_jobs=jobs) as pool:
        for done, ((k, number), of_classes) in enumerate(draws.items(), start=1):
            tasks = (
                delayed(precisions)(
                    rows[one.rows], one.signs, costs, solver, test_rows, target
                )
                for one, target in zip(of_classes, targets, strict=True)
            )
            # (C, costs) -> (costs,)
            values = np.array(list(pool(tasks)))
            found.setdefault(k, {})[number] = np.nanmean(values, axis=0)
            if report is not None:
                report(done, len(draws))
    return [_result(k, of_k, list(costs), seed) for k, of_k in found.items()]


def draw(labels: np.ndarray, k: int, *, seed: int, sample: int) -> list[Draw]:
    """Draw the training images of each class.

    Args:
        labels: (N, C) or (N,).
        k: positive images of a class.
        seed: of all draws.
        sample: number of the draw.

    Raises:
        DataError: a class has too few images.
    """
    if labels.ndim == 1:
        return _draw_classes(labels, k, seed, sample)
    drawn = []
    for number, column in enumerate(labels.T):
        random = np.random.default_rng((seed, sample, k, number))
        wanted = {1: k, 0: (labels.shape[1] - 1) * k}
        parts = [
            _choose(random, np.flatnonzero(column == label), count, number, label)
            for label, count in wanted.items()
        ]
        signs = np.repeat((POSITIVE, NEGATIVE), (len(parts[0]), len(parts[1])))
        drawn.append(Draw(np.concatenate(parts), signs))
    return drawn


def _draw_classes(labels: np.ndarray, k: int, seed: int, sample: int) -> list[Draw]:
    classes = np.unique(labels[labels >= 0])
    parts = []
    for number in classes.tolist():
        random = np.random.default_rng((seed, sample, k, number))
        parts.append(_choose(random, np.flatnonzero(labels == number), k, number, 1))
    rows = np.concatenate(parts)
    return [
        Draw(rows, np.where(labels[rows] == number, POSITIVE, NEGATIVE))
        for number in classes
    ]


def _choose(
    random: np.random.Generator, rows: np.ndarray, count: int, number: int, label: int
) -> np.ndarray:
    if count > len(rows):
        raise DataError(
            f"class {number}: {len(rows)} training images are labelled "
            f"{'with' if label else 'without'} it; wanted {count}. Take smaller k."
        )
    return np.sort(random.choice(rows, count, replace=False))


def _targets(labels: np.ndarray, test_labels: np.ndarray) -> Iterator[np.ndarray]:
    """For each class the test labels (M,): 1, 0, or -1 for an image not to count."""
    if labels.ndim == 2:
        yield from test_labels.T
        return
    for number in np.unique(labels[labels >= 0]):
        yield np.where(test_labels < 0, -1, test_labels == number)


def _result(
    k: int, of_samples: dict[int, np.ndarray], costs: list[float], seed: int
) -> LowShotResult:
    values = 100.0 * np.stack(list(of_samples.values()))
    means = values.mean(axis=0)
    best = int(means.argmax())
    return LowShotResult(
        metric=svm.MEAN_AP,
        k=k,
        mean=float(means[best]),
        min=float(values[:, best].min()),
        max=float(values[:, best].max()),
        std=float(values[:, best].std()),
        cost=costs[best],
        costs=costs,
        mean_of_costs=means.tolist(),
        samples=list(of_samples),
        seed=seed,
    )


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code (2 for bad input)."""
    return feature_command.run("low-shot-svm", options, _of_layer)


def _of_layer(job: feature_command.Job, layer: str) -> feature_command.Outcome:
    train = features.load(job.folder, "train", layer)
    test = features.load(job.folder, "test", layer)
    given: dict[str, Any] = svm.solver_of(job)
    if job.settings is not None:
        given["k_values"] = job.settings.k_values
        given["samples"] = job.settings.sample_numbers
    if job.options.k is not None:
        given["k_values"] = job.options.k
    if job.options.samples is not None:
        given["samples"] = range(1, job.options.samples + 1)
    results = evaluate(
        train,
        test,
        jobs=job.options.jobs or most_jobs(train),
        report=job.progress(f"low-shot SVMs on {layer}"),
        **given,
    )
    return feature_command.Outcome(
        facts={
            "train_images": len(train.labels),
            "test_images": len(test.labels),
            "cost_chosen_on": "test",
            "solver": asdict(given["solver"]),
            "results": [asdict(result) for result in results],
        },
        columns=("k", "mAP %", "min", "max", "std", "C"),
        rows=[
            (
                str(r.k),
                *(f"{value:.2f}" for value in (r.mean, r.min, r.max, r.std)),
                f"{r.cost:g}",
            )
            for r in results
        ],
    )
