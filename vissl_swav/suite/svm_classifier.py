"""Linear SVMs of one class against the rest, and their average precision.

The settings are those of VISSL's SVM tools, which follow Goyal, Mahajan, Gupta, Misra,
"Scaling and Benchmarking Self-Supervised Visual Representation Learning" (2019), arXiv
1905.01235: squared hinge loss, L2 penalty, a positive counting twice, rows brought to
unit length. Solver: LIBLINEAR through scikit-learn.

LIBLINEAR draws from one random state a process: fits run at once in processes of their
own (`joblib`), each from the same seed, so that the result does not depend on how many.
numpy and scikit-learn only, since those processes import this file.

Symbols: N images, D dimension, C classes. Samples are rows.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.svm import LinearSVC

POSITIVE, NEGATIVE = 1, -1


@dataclass(frozen=True)
class Solver:
    """How one class is told from the rest; the defaults are VISSL's.

    Attributes:
        normalize: bring rows to unit length.
        penalty: `l2` or `l1`.
        loss: `squared_hinge` or `hinge`.
        dual: solve the dual problem.
        max_iter: iterations at most.
        positive_weight: a positive image's weight; a negative's is 1.
        seed: of LIBLINEAR's random order.
    """

    normalize: bool = True
    penalty: str = "l2"
    loss: str = "squared_hinge"
    dual: bool = True
    max_iter: int = 2000
    positive_weight: float = 2.0
    seed: int = 0


class Fitted(NamedTuple):
    """A separating plane, and whether the solver reached its tolerance."""

    weight: np.ndarray
    bias: float
    converged: bool

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """(N, D) -> (N,), above 0 for the class."""
        return rows @ self.weight + self.bias


def prepared(features: np.ndarray, solver: Solver) -> np.ndarray:
    """(N, D) -> (N, D) float64; `x / (|x| + 1e-5)` where rows are normalised."""
    rows = np.array(features, dtype=np.float64, order="C")
    if solver.normalize:
        rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-5
    return rows


def fit(rows: np.ndarray, signs: np.ndarray, cost: float, solver: Solver) -> Fitted:
    """The plane between the images of sign 1 and those of -1.

    Args:
        rows: (N, D) float64.
        signs: (N,), both signs among them.
        cost: C of the SVM; the larger, the less the penalty counts.
        solver: settings.
    """
    settings: dict[str, Any] = {
        "class_weight": {POSITIVE: solver.positive_weight, NEGATIVE: 1.0},
        "penalty": solver.penalty,
        "loss": solver.loss,
        "dual": solver.dual,
        "max_iter": solver.max_iter,
        "random_state": solver.seed,
    }
    model = LinearSVC(C=cost, tol=1e-4, **settings)
    with warnings.catch_warnings():
        # Counted and told once (`SvmResult.unconverged`), not once a fit.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows, signs)
    # scikit-learn's types are wider than what a fit of two classes leaves.
    fitted: Any = model
    converged = int(np.max(fitted.n_iter_)) < solver.max_iter
    return Fitted(fitted.coef_[0], float(fitted.intercept_[0]), converged)


def held_out_scores(
    rows: np.ndarray,
    signs: np.ndarray,
    cost: float,
    solver: Solver,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, int]:
    """Each image's score by the plane of the folds without it.

    Args:
        rows: (N, D) float64.
        signs: (N,).
        cost: C of the SVM.
        solver: settings.
        folds: (training rows, held-out rows), every row held out once.

    Returns:
        Scores (N,), and how many fits did not converge.
    """
    scores, unconverged = np.empty(len(rows)), 0
    for training, held_out in folds:
        plane = fit(rows[training], signs[training], cost, solver)
        scores[held_out] = plane.scores(rows[held_out])
        unconverged += not plane.converged
    return scores, unconverged


def cross_validated(
    rows: np.ndarray,
    signs: np.ndarray,
    cost: float,
    solver: Solver,
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[float, int]:
    """Mean over the folds of scikit-learn's average precision on what they hold out.

    Not VOC's interpolated one: VISSL chooses the cost by this.

    Returns:
        The mean in 0..1, and how many fits did not converge.
    """
    scores, unconverged = held_out_scores(rows, signs, cost, solver, folds)
    values = [
        average_precision_score(signs[held_out], scores[held_out], pos_label=POSITIVE)
        for _, held_out in folds
    ]
    return float(np.mean(values)), unconverged


def scores_of_test(
    rows: np.ndarray,
    signs: np.ndarray,
    cost: float,
    solver: Solver,
    test_rows: np.ndarray,
) -> tuple[np.ndarray, int]:
    """Scores (M,) of test rows (M, D), and 1 if the fit did not converge, else 0."""
    plane = fit(rows, signs, cost, solver)
    return plane.scores(test_rows), int(not plane.converged)


def precisions(
    rows: np.ndarray,
    signs: np.ndarray,
    costs: Sequence[float],
    solver: Solver,
    test_rows: np.ndarray,
    target: np.ndarray,
) -> np.ndarray:
    """VOC's average precision for each cost; test labels 1, 0, or -1 not to count."""
    counted = target != -1
    return np.array(
        [
            voc_average_precision(
                target[counted] == 1,
                fit(rows, signs, cost, solver).scores(test_rows)[counted],
            )
            for cost in costs
        ]
    )


def voc_average_precision(is_positive: np.ndarray, scores: np.ndarray) -> float:
    """Area under the precision-recall curve, as PASCAL VOC has measured since 2010.

    Precision at a recall is the largest at that recall or a higher one. Among equal
    scores the earlier image comes first.

    Args:
        is_positive: (N,) booleans.
        scores: (N,), the most likely image's the largest.

    Returns:
        0..1; NaN where no image is positive.
    """
    hits = is_positive[np.argsort(-scores, kind="stable")]
    if not hits.any():
        return float("nan")
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall rises by 1 / positives at each hit and nowhere else.
    return float(best_from_here[hits].mean())
