"""Names of the figures that a benchmark gives, as a recipe's columns ask for them."""

from collections.abc import Mapping
from typing import Any

COST = ("seconds_per_step", "images_per_second", "hours_100_epochs", "peak_gb")


def knn_metric(k: int, temperature: float, top: int) -> str:
    """Of the k-NN classifier: the share of test images right in `top` guesses."""
    return f"k{k}_t{temperature:g}_top{top}"


def low_shot_metric(k: int) -> str:
    """Of SVMs on k images a class."""
    return f"k{k}"


def possible(kind: str, options: Mapping[str, Any]) -> list[str] | None:
    """The figures of a benchmark; None where only its config can tell.

    Args:
        kind: of the benchmark.
        options: its settings, as the recipe gives them.
    """
    if kind == "features":
        return []
    if kind == "cost":
        return list(COST)
    if kind == "knn":
        return [
            knn_metric(k, temperature, top)
            for k in options["k"]
            for temperature in options["temperature"]
            for top in (1, 5)
        ]
    if kind == "svm":
        from vissl_swav.suite import svm

        return [svm.ACCURACY, svm.MEAN_AP]
    if kind == "low_shot_svm":
        from vissl_swav.suite.low_shot_svm import K_VALUES

        return [low_shot_metric(k) for k in options["k"] or K_VALUES]
    return None
