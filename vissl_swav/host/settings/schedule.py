"""When queue, prototypes and labels change, in epochs or in steps."""

from dataclasses import dataclass
from typing import Any

from vissl_swav.core.momentum import momentum_at


@dataclass(frozen=True)
class Schedule:
    """The keys of `LOSS.<name>` that our hooks follow; a loss has some of them."""

    queue_start_epoch: int | None = None
    queue_start_step: int | None = None
    freeze_prototypes_epochs: int | None = None
    freeze_prototypes_steps: int | None = None
    trainable_prototypes: bool = False
    assign_every_epochs: int = 1
    momentum: float = 0.0
    momentum_end: float = 0.0

    def momentum_of(self, step: int, num_steps: int) -> float:
        """Momentum of the encoder that gives the codes, at a step of the run."""
        return momentum_at(
            step, num_steps=num_steps, start=self.momentum, end=self.momentum_end
        )

    def queue_start(self, steps_per_epoch: int) -> int:
        """Training step at which the queue begins to fill."""
        if self.queue_start_epoch is not None:
            return self.queue_start_epoch * steps_per_epoch
        return self.queue_start_step or 0

    def freeze_steps(self, steps_per_epoch: int) -> float:
        """Training steps during which the prototypes get no gradient."""
        if not self.trainable_prototypes:
            return float("inf")
        if self.freeze_prototypes_epochs is not None:
            return self.freeze_prototypes_epochs * steps_per_epoch
        return self.freeze_prototypes_steps or 0


def schedule_of(settings: Any) -> Schedule:
    """From the inferred settings of a loss."""
    names = [name for name in Schedule.__dataclass_fields__ if name in settings]
    return Schedule(**{name: settings[name] for name in names})
