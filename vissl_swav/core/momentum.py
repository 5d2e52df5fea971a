"""A momentum encoder: a copy of a model that follows it slowly (thesis, section 5.2).

    theta_t <- m theta_t + (1 - m) theta_s        after every optimiser step

`theta_s` weights of the model that is trained (the student), `theta_t` of the copy (the
teacher), `m` momentum. As in BYOL and DINO, m goes from `start` to `end` along a
cosine; equal numbers give a constant m.

Only parameters are averaged. Buffers, the running statistics of BatchNorm, are the
copy's own, from its own forward passes in train mode: they belong to its weights.

Limits: m = 0 is the student itself, m = 1 the copy of the first step.
"""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from vissl_swav.core.setting_checks import SettingError

MOMENTUM = 0.996
MOMENTUM_END = 1.0
"""DINO's schedule (thesis, section 5.2), and the defaults wherever an argument."""


def momentum_copy(model: nn.Module) -> nn.Module:
    """A copy whose parameters take no gradient; process groups are shared.

    Args:
        model: not wrapped by DDP, and not sharded.
    """
    # A process group of SyncBatchNorm cannot be copied.
    groups = (getattr(module, "process_group", None) for module in model.modules())
    shared = {id(group): group for group in groups if group is not None}
    return copy.deepcopy(model, shared).requires_grad_(False)


@torch.no_grad()
def update_momentum_(
    target: Iterable[Tensor], source: Iterable[Tensor], momentum: float
) -> None:
    """In place: target <- momentum * target + (1 - momentum) * source.

    Exact for momentum 0 and 1.

    Args:
        target: the teacher's parameters, (...) each; float32 or wider, whatever the
            source's are: a step of 1 - m is less than half precision can tell apart.
        source: the student's, in the same order and of the same shapes.
        momentum: m in [0, 1].

    Raises:
        TypeError: something else than parameters.
        ValueError: parameters that do not pair up, a target in half precision, or a
            momentum outside [0, 1].
    """
    targets, sources = _tensors("target", target), _tensors("source", source)
    check_momentum("momentum", momentum)
    if [t.shape for t in targets] != [s.shape for s in sources]:
        raise ValueError(
            f"got {len(targets)} target and {len(sources)} source parameters, or "
            "parameters of other shapes; wanted those of two equal models."
        )
    halves = {str(t.dtype) for t in targets if t.dtype.itemsize < 4}
    if halves:
        raise ValueError(
            f"target has parameters of {', '.join(sorted(halves))}, which a momentum "
            "near 1 would not move: each step is lost in rounding. Keep the copy in "
            "float32, as by momentum_copy(model).float(); the model may stay as it is."
        )
    if targets:
        same = [s.detach().to(t) for s, t in zip(sources, targets, strict=True)]
        # The call of torch's own optimisers: all tensors in a few kernels.
        torch._foreach_lerp_(targets, same, 1 - momentum)  # pyright: ignore


def check_momentum(name: str, value: float) -> None:
    """A share of the old in the new.

    Raises:
        SettingError: outside [0, 1], where the average would grow without bound.
    """
    if not 0 <= value <= 1:
        raise SettingError(
            f"{name} is {value}; wanted 0 to 1 (DINO: {MOMENTUM} to {MOMENTUM_END:g}).",
            name,
        )


def _tensors(name: str, given: Iterable[Tensor]) -> list[Tensor]:
    """The parameters that were given, and nothing but tensors."""
    found: list[Any] = [] if isinstance(given, nn.Module) else list(given)
    kinds = {type(item).__name__ for item in found if not isinstance(item, Tensor)}
    if kinds or isinstance(given, nn.Module):
        of = f" of {', '.join(sorted(kinds))}" if kinds else ""
        raise TypeError(
            f"{name} is a {type(given).__name__}{of}; wanted tensors, as "
            "model.parameters() gives them (not the model, named_parameters() or a "
            "state dict)."
        )
    return found


def momentum_at(
    step: int,
    *,
    num_steps: int,
    start: float = MOMENTUM,
    end: float = MOMENTUM_END,
) -> float:
    """Momentum of a step: end - (end - start) (cos(pi step / num_steps) + 1) / 2.

    Args:
        step: steps finished before this one.
        num_steps: of the whole run; later steps have `end`.
        start: m of step 0.
        end: m at the end of the run.

    Raises:
        SettingError: a momentum outside [0, 1], or a negative number of steps.
    """
    check_momentum("start", start)
    check_momentum("end", end)
    for name, value in (("step", step), ("num_steps", num_steps)):
        if not value >= 0:
            raise SettingError(f"{name} is {value}; wanted >= 0.", name)
    done = min(1.0, step / max(1, num_steps))
    return end - (end - start) * (math.cos(math.pi * done) + 1) / 2
