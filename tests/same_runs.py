"""Whether two runs were the same, bit for bit: their losses, and what they end with."""

from pathlib import Path
from typing import Any

import host_runs
import torch

PARTS = ("loss", "classy_state_dict", "iteration")


def steps(folder: Path) -> dict[int, tuple[float, float]]:
    """Loss and learning rate by step; a step taken twice must have given the same."""
    found: dict[int, tuple[float, float]] = {}
    for line in host_runs.lines(folder):
        now = line["loss"], line["lr"]
        assert found.setdefault(line["step"], now) == now, line["step"]
    return found


def final(folder: Path) -> dict[str, Any]:
    """The content of the final checkpoint, the only one of that kind."""
    (path,) = folder.glob("model_final*.torch")
    return torch.load(path, weights_only=False, map_location="cpu")


def assert_same_state(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Weights, optimiser, loss and all ranks' state of two final checkpoints."""
    assert one["loss"] and one["classy_state_dict"]["base_model"]
    differ = [path for part in PARTS for path in unequal(one[part], other[part], part)]
    assert not differ, differ


def unequal(one: Any, other: Any, path: str) -> list[str]:
    """Where two nested containers of tensors differ, bit for bit."""
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and torch.equal(one, other)
        return [] if same else [path]
    if isinstance(one, dict):
        if not isinstance(other, dict) or one.keys() != other.keys():
            return [path]
        # Losses of the epoch so far, for a log line only: a resumed epoch has fewer.
        keys = [key for key in one if (path, key) != ("classy_state_dict", "losses")]
        return [at for k in keys for at in unequal(one[k], other[k], f"{path}.{k}")]
    if isinstance(one, (list, tuple)):
        if not isinstance(other, type(one)) or len(one) != len(other):
            return [path]
        pairs = enumerate(zip(one, other, strict=True))
        return [at for i, (a, b) in pairs for at in unequal(a, b, f"{path}[{i}]")]
    return [] if one == other else [path]
