"""Pictures of a run."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


def loss_curve(path: Path, steps: Sequence[dict[str, Any]], config: Path) -> None:
    """Draws the loss against its ceiling ln K and, where N < K, its floor ln(K / N).

    Args:
        path: the PNG to write.
        steps: lines of `steps.jsonl`, in order.
        config: the run's `train_config.yaml`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    ceiling, floor = bounds(config)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot([s["step"] for s in steps], [s["loss"] for s in steps], lw=0.6, alpha=0.4)
    smooth = smoothed([s["loss"] for s in steps])
    axes.plot([s["step"] for s in steps], smooth, color="C0", label="loss")
    axes.axhline(ceiling, color="C3", ls="--", label=f"ceiling ln K = {ceiling:.2f}")
    if floor > 0:
        axes.axhline(floor, color="C2", ls="--", label=f"floor ln(K/N) = {floor:.2f}")
    axes.set_xlabel("training step")
    axes.set_ylabel("swapped prediction loss (nats)")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def bounds(config: Path) -> tuple[float, float]:
    """Ceiling ln K, and floor ln(K / N) or 0, N being batch of all ranks and queue."""
    cfg = yaml.safe_load(config.read_text(encoding="utf-8"))
    loss = cfg["LOSS"][cfg["LOSS"]["name"]]
    largest = max(loss["num_prototypes"])
    ranks = cfg["DISTRIBUTED"]["NUM_NODES"] * cfg["DISTRIBUTED"]["NUM_PROC_PER_NODE"]
    samples = cfg["DATA"]["TRAIN"]["BATCHSIZE_PER_REPLICA"] * ranks
    samples += loss["queue_length"]
    return math.log(largest), max(0.0, math.log(largest / samples))


def smoothed(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average without the bias of its start."""
    average, total, result = 0.0, 0.0, []
    for value in values:
        average = weight * average + (1 - weight) * value
        total = weight * total + (1 - weight)
        result.append(average / total)
    return result
