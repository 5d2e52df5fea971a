"""LARC: a learning rate for each tensor from its norm and its gradient's norm.

For a weight w with gradient g, weight decay b, trust coefficient h and rate lr::

    local = h * |w| / (|g| + b * |w| + eps)
    g'    = (g + b * w) * (min(local / lr, 1)  if clip  else  local)

and the wrapped optimizer steps with g' and no weight decay of its own. With `clip` the
effective rate is min(local, lr); without it lr * local (LARS). A tensor whose weight or
gradient is all zero keeps its gradient, and no decay is added.

Source: You, Gitman, Ginsburg, "Large batch training of convolutional networks" (2017),
arXiv 1708.03888, eq. 6; "clip" is NVIDIA's variant.

Symbols: w `weight`, g `gradient`, h `trust_coefficient`, b `weight_decay`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Larc:
    """Wraps a torch optimizer, which keeps all state and all settings.

    Loss scaling must be undone before `step`, since the norms are not linear in the
    scale: `torch.amp.GradScaler.step` does so.

    Args:
        optimizer: any torch optimizer.
        trust_coefficient: h, above 0.
        clip: see above.
        eps: added to the denominator, at least 0.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        trust_coefficient: float = 0.02,
        clip: bool = True,
        eps: float = 1e-8,
    ) -> None:
        if not trust_coefficient > 0.0:
            raise ValueError(
                f"LARC got trust_coefficient={trust_coefficient}; it must be above 0 "
                "(the SwAV paper's runs use 0.001)"
            )
        if not eps >= 0.0:
            raise ValueError(f"LARC got eps={eps}; it must be 0 or more, such as 1e-8")
        self.optim = optimizer
        self.trust_coefficient = trust_coefficient
        self.clip = clip
        self.eps = eps

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The wrapped optimizer's groups themselves, not a copy."""
        return self.optim.param_groups

    @param_groups.setter
    def param_groups(self, value: list[dict[str, Any]]) -> None:
        self.optim.param_groups = value

    @property
    def state(self) -> Any:
        """The wrapped optimizer's state itself."""
        return self.optim.state

    @property
    def defaults(self) -> dict[str, Any]:
        """The wrapped optimizer's defaults."""
        return self.optim.defaults

    def state_dict(self) -> dict[str, Any]:
        """Return the wrapped optimizer's; LARC itself has no state."""
        return self.optim.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the wrapped optimizer's."""
        self.optim.load_state_dict(state_dict)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        self.optim.zero_grad(set_to_none=set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the wrapped optimizer."""
        self.optim.add_param_group(param_group)

    def __repr__(self) -> str:
        return (
            f"Larc(trust_coefficient={self.trust_coefficient}, clip={self.clip}, "
            f"eps={self.eps}, optimizer={self.optim!r})"
        )

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Scale the gradients in place, then step the wrapped optimizer.

        Args:
            closure: evaluated once, before the scaling.

        Returns:
            What the closure returned, or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        decays = [group.get("weight_decay", 0.0) for group in self.param_groups]
        try:
            for group, weight_decay in zip(self.param_groups, decays, strict=True):
                self._scale_gradients(group, weight_decay)
                group["weight_decay"] = 0.0
            self.optim.step()
        finally:
            for group, weight_decay in zip(self.param_groups, decays, strict=True):
                group["weight_decay"] = weight_decay
        return loss

    @torch.no_grad()
    def _scale_gradients(self, group: dict[str, Any], weight_decay: float) -> None:
        for weight in group["params"]:
            if weight.grad is not None:
                decay, ratio = self._factors(weight, group["lr"], weight_decay)
                weight.grad.addcmul_(weight, decay.to(weight.dtype))
                weight.grad.mul_(ratio.to(weight.dtype))

    def _factors(
        self, weight: Tensor, lr: float, weight_decay: float
    ) -> tuple[Tensor, Tensor]:
        """Return decay and ratio as 0-dim tensors: no wait for the device."""
        gradient = weight.grad
        assert gradient is not None
        # Norms in fp32 at least: the square of a half-precision norm overflows.
        dtype = torch.promote_types(weight.dtype, torch.float32)
        weight_norm = torch.linalg.vector_norm(weight, dtype=dtype)
        grad_norm = torch.linalg.vector_norm(gradient, dtype=dtype)
        applies = (weight_norm > 0) & (grad_norm > 0)
        denominator = grad_norm + weight_decay * weight_norm + self.eps
        ratio = self.trust_coefficient * weight_norm / denominator
        if self.clip:
            ratio = (ratio / lr).clamp(max=1.0)
        one = torch.ones_like(ratio)
        return applies * (one * weight_decay), torch.where(applies, ratio, one)
