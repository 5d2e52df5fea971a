"""`vissl-swav svm`: linear SVMs on frozen features, by the VOC07 protocol.

A class at a time is told from the rest. The cost of each comes from cross-validation on
the training images; the SVM of that cost, trained on all of them, is tested. Labels
(N, C) give the mean of the classes' VOC average precision, labels (N,) the accuracy of
the class with the largest score, with one cost for all classes, so that their scores
can be compared.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from joblib import Parallel

from vissl_swav.data.errors import DataError
from vissl_swav.suite import feature_command, features
from vissl_swav.suite.features import FeatureSet
from vissl_swav.suite.svm_classifier import Solver
from vissl_swav.suite.svm_problem import most_jobs, problem_of
from vissl_swav.suite.svm_training import Work, accuracy, mean_ap

# VISSL's list for VOC07.
COSTS = (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0)
MEAN_AP, ACCURACY = "mean_ap", "accuracy"


@dataclass(frozen=True)
class SvmResult:
    """What SVMs on frozen features reach.

    Attributes:
        metric: `mean_ap` for labels (N, C), `accuracy` for labels (N,).
        value: of the metric, per cent.
        per_class: average precision of each class, or the share of its images that are
            recognised; None where the test set has no image of it, which then does not
            count in the mean.
        classes: their numbers.
        chosen_costs: the cost of each class.
        costs: the costs tried.
        cross_validation: per cent for each class and cost (labels (N,): the same row
            for all classes); empty where there was one cost and nothing to choose.
        folds: of the cross-validation.
        seed: of the solver.
        unconverged: fits that stopped at the largest number of iterations.
        fits: fits in all.
    """

    metric: str
    value: float
    per_class: list[float | None]
    classes: list[int]
    chosen_costs: list[float]
    costs: list[float]
    cross_validation: list[list[float]]
    folds: int
    seed: int
    unconverged: int
    fits: int


def evaluate(
    train: FeatureSet,
    test: FeatureSet,
    *,
    costs: Sequence[float] = COSTS,
    folds: int = 3,
    seed: int = 0,
    classes: Sequence[int] | None = None,
    solver: Solver | None = None,
    jobs: int = 1,
    report: Callable[[int, int], object] | None = None,
) -> SvmResult:
    """Train on `train`, test on `test`.

    Memory: the features in float64, 8 N D bytes, and LIBLINEAR's copy of them, 16 N D
    bytes, for each job.

    Args:
        train: labels (N, C), where 0 and -1 both count as absent (VISSL's way), or
            (N,), where images of -1 are left out.
        test: labels (M, C) or (M,); those of -1 do not count.
        costs: C of the SVM, to choose from.
        folds: of the cross-validation that chooses; not used with one cost.
        seed: of LIBLINEAR's order.
        classes: numbers of the classes to look at; all by default. Labels (N,): images
            of other classes are left out.
        solver: settings; its seed gives way to `seed`.
        jobs: processes.
        report: called with (pieces of work done, all of them).

    Raises:
        DataError: labels that do not fit, or too few images of a class.
    """
    solver = replace(solver or Solver(), seed=seed)
    if not costs or min(costs) <= 0.0:
        raise DataError(f"costs are {list(costs)}; wanted one or more, all above 0.")
    problem = problem_of(train, test, classes, solver)
    multi_label = problem.labels.ndim == 2
    with Parallel(n_jobs=jobs, return_as="generator") as pool:
        work = Work(pool, problem, list(costs), folds, solver, report)
        found = mean_ap(work) if multi_label else accuracy(work)
    trials = len(problem.classes) * len(costs) * folds if work.chooses else 0
    return SvmResult(
        metric=MEAN_AP if multi_label else ACCURACY,
        value=100.0 * found.value,
        per_class=[None if np.isnan(v) else 100.0 * v for v in found.per_class],
        classes=problem.classes,
        chosen_costs=found.chosen,
        costs=work.costs,
        cross_validation=(100.0 * found.cross_validation).tolist(),
        folds=folds if work.chooses else 0,
        seed=seed,
        unconverged=work.unconverged,
        fits=trials + len(problem.classes),
    )


def main(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code (2 for bad input)."""
    return feature_command.run("svm", options, _of_layer)


def solver_of(job: feature_command.Job) -> dict[str, Any]:
    """Arguments of both tools: `solver`; `costs` and `seed`, where they were given."""
    settings, options = job.settings, job.options
    given: dict[str, Any] = {}
    if settings is not None:
        given = {
            "costs": settings.costs,
            "seed": settings.seed,
            "solver": Solver(
                normalize=settings.normalize,
                penalty=settings.penalty,
                loss=settings.loss,
                dual=settings.dual,
                max_iter=settings.max_iter,
            ),
        }
    for name in ("costs", "seed"):
        if getattr(options, name) is not None:
            given[name] = getattr(options, name)
    solver = given.get("solver", Solver())
    return {**given, "solver": replace(solver, seed=given.get("seed", solver.seed))}


def _of_layer(job: feature_command.Job, layer: str) -> feature_command.Outcome:
    train = features.load(job.folder, "train", layer)
    test = features.load(job.folder, "test", layer)
    given = solver_of(job)
    if job.settings is not None:
        given |= {"folds": job.settings.folds, "classes": job.settings.classes}
    if job.options.folds is not None:
        given["folds"] = job.options.folds
    result = evaluate(
        train,
        test,
        jobs=job.options.jobs or most_jobs(train),
        report=job.progress(f"SVMs on {layer}"),
        **given,
    )
    if result.unconverged:
        job.warn(
            f"{result.unconverged} of {result.fits} fits stopped at the largest number "
            "of iterations; VISSL's do so as well, for large costs."
        )
    of_class = zip(result.classes, result.per_class, strict=True)
    empty = [number for number, value in of_class if value is None]
    if empty:
        job.warn(f"the test set has no image of the classes {empty}: left out.")
    name = "mAP %" if result.metric == MEAN_AP else "accuracy %"
    costs = sorted(set(result.chosen_costs))
    return feature_command.Outcome(
        facts={
            "train_images": len(train.labels),
            "test_images": len(test.labels),
            "solver": asdict(given["solver"]),
            **asdict(result),
        },
        columns=(name, "classes", "chosen C"),
        rows=[
            (
                f"{result.value:.2f}",
                str(len(result.classes)),
                ", ".join(f"{cost:g}" for cost in costs),
            )
        ],
    )
