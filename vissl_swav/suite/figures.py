"""Pictures of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vissl_swav.health.verdicts import LN_K
from vissl_swav.host.settings import loss_bounds
from vissl_swav.host.settings.health import ceiling_name


def loss_curve(path: Path, steps: Sequence[dict[str, Any]], config: Path) -> None:
    """Draws the loss against its ceiling, ln K say, and its floor, if that is not 0.

    Args:
        path: the PNG to write.
        steps: lines of `steps.jsonl`, in order.
        config: the run's `train_config.yaml`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    cfg = yaml.safe_load(config.read_text(encoding="utf-8"))
    (ceiling, floor), name = loss_bounds(cfg), ceiling_name(cfg)
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    axes.plot([s["step"] for s in steps], [s["loss"] for s in steps], lw=0.6, alpha=0.4)
    smooth = smoothed([s["loss"] for s in steps])
    axes.plot([s["step"] for s in steps], smooth, color="C0", label="loss")
    axes.axhline(ceiling, color="C3", ls="--", label=f"ceiling {name} = {ceiling:.2f}")
    if floor > 0:
        label = f"floor{' ln(K/N)' if name == LN_K else ''} = {floor:.2f}"
        axes.axhline(floor, color="C2", ls="--", label=label)
    axes.set_xlabel("training step")
    axes.set_ylabel("loss (nats)")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def smoothed(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average without the bias of its start."""
    average, total, result = 0.0, 0.0, []
    for value in values:
        average = weight * average + (1 - weight) * value
        total = weight * total + (1 - weight)
        result.append(average / total)
    return result
