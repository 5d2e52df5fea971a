"""SVMs of all classes: the choice of their costs, in processes, and their test.

Labels (N, C): each class gets the cost of its own best cross-validation. Labels (N,):
all classes get the cost whose held-out images are most often recognised, so that their
scores can be compared.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from joblib import delayed
from sklearn.model_selection import StratifiedKFold

from vissl_swav.data.errors import DataError
from vissl_swav.suite.svm_classifier import (
    Solver,
    cross_validated,
    held_out_scores,
    scores_of_test,
    voc_average_precision,
)
from vissl_swav.suite.svm_problem import Problem, check_positives, signs_of

Folds = Sequence[tuple[np.ndarray, np.ndarray]]


class Found(NamedTuple):
    """Shares in 0..1.

    Attributes:
        value: of the metric.
        per_class: of each class, NaN where the test set has no image of it.
        chosen: the cost of each class.
        cross_validation: (C, costs), or (C, 0) with one cost.
    """

    value: float
    per_class: list[float]
    chosen: list[float]
    cross_validation: np.ndarray


class Work:
    """The processes, the settings, and how far the work has come.

    Raises:
        DataError: a class has too few images, or there are too few folds.
    """

    def __init__(
        self,
        pool: Any,
        problem: Problem,
        costs: list[float],
        folds: int,
        solver: Solver,
        report: Callable[[int, int], object] | None,
    ):
        self.pool, self.problem, self.costs = pool, problem, costs
        self.folds, self.solver, self.report = folds, solver, report
        self.chooses = len(costs) > 1
        if self.chooses and folds < 2:
            raise DataError(
                f"folds is {folds}; wanted 2 or more to choose from {len(costs)} "
                "costs, or one cost."
            )
        check_positives(problem, folds if self.chooses else 1)
        classes = len(problem.classes)
        self.total = classes * (len(costs) + 1 if self.chooses else 1)
        self.done = self.unconverged = 0

    def run(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """What the tasks give, in order; the last item of each: unconverged fits."""
        for *values, unconverged in self.pool(tasks):
            self.done += 1
            self.unconverged += unconverged
            if self.report is not None:
                self.report(self.done, self.total)
            yield values

    def test_scores(self, costs: Sequence[float]) -> np.ndarray:
        """Scores (M, C) of the test images, each class by the SVM of its cost."""
        problem = self.problem
        tasks = [
            delayed(scores_of_test)(
                problem.rows,
                signs_of(problem, number),
                cost,
                self.solver,
                problem.test_rows,
            )
            for number, cost in zip(problem.classes, costs, strict=True)
        ]
        return np.stack([scores for (scores,) in self.run(tasks)], axis=1)


def mean_ap(work: Work) -> Found:
    """Mean of the classes' VOC average precision; labels (N, C)."""
    problem = work.problem
    values = np.zeros((len(problem.classes), 0))
    chosen = work.costs * len(problem.classes)
    if work.chooses:
        tasks = (
            delayed(cross_validated)(
                problem.rows, signs, cost, work.solver, _folds(work, signs)
            )
            for signs in (signs_of(problem, number) for number in problem.classes)
            for cost in work.costs
        )
        values = np.array([value for (value,) in work.run(tasks)])
        values = values.reshape(len(problem.classes), len(work.costs))
        chosen = [work.costs[best] for best in values.argmax(axis=1)]
    scores = work.test_scores(chosen)
    per_class = []
    for column, number in enumerate(problem.classes):
        labels = problem.test_labels[:, number]
        counted = labels != -1
        per_class.append(
            voc_average_precision(labels[counted] == 1, scores[counted, column])
        )
    return Found(float(np.nanmean(per_class)), per_class, chosen, values)


def accuracy(work: Work) -> Found:
    """Share of the test images with their class's score the largest; labels (N,)."""
    problem = work.problem
    classes = np.array(problem.classes)
    values, best = np.zeros((len(classes), 0)), 0
    if work.chooses:
        folds = _folds(work, problem.labels)
        shares = []
        for cost in work.costs:
            tasks = (
                delayed(held_out_scores)(
                    problem.rows, signs_of(problem, number), cost, work.solver, folds
                )
                for number in problem.classes
            )
            scores = np.stack([column for (column,) in work.run(tasks)], axis=1)
            right = classes[scores.argmax(axis=1)] == problem.labels
            shares.append(np.mean([right[held_out].mean() for _, held_out in folds]))
        best = int(np.argmax(shares))
        values = np.tile(shares, (len(classes), 1))
    chosen = [work.costs[best]] * len(classes)
    predicted = classes[work.test_scores(chosen).argmax(axis=1)]
    labels = problem.test_labels
    right = (predicted == labels)[labels >= 0]
    per_class = [
        float((predicted == number)[labels == number].mean())
        if (labels == number).any()
        else float("nan")
        for number in classes
    ]
    return Found(float(right.mean()), per_class, chosen, values)


def _folds(work: Work, labels: np.ndarray) -> Folds:
    """Of equal shares of each label, not shuffled: scikit-learn's for a classifier."""
    folds = StratifiedKFold(work.folds)
    return list(folds.split(np.zeros((len(labels), 1)), labels))
