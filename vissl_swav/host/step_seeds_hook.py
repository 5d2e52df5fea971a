"""Hook: the global generators follow from the step, so that their state is no state.

What a model draws while it trains (dropout, stochastic depth) comes from the global
generators of torch, numpy and Python, and their state depends on everything that drew
before. Here they are seeded at each step from (seed, rank, steps done). A resumed run
then draws what an uninterrupted one draws, on any number of ranks, and no checkpoint
has to carry a generator.
"""

import random
from typing import Any

import numpy as np
import torch
from classy_vision.hooks.classy_hook import ClassyHook

from vissl_swav.backends.torch_collective import collective
from vissl_swav.core.hashing import sample_keys
from vissl_swav.host import settings
from vissl_swav.host.task_view import TaskView


class StepSeedsHook(ClassyHook):
    """Seeds at the start, around every phase, and after every training step.

    Ours that draw while a phase starts must stand before it in the list of hooks.
    """

    on_forward = ClassyHook._noop
    on_loss_and_meter = ClassyHook._noop
    on_backward = ClassyHook._noop
    on_update = ClassyHook._noop
    on_end = ClassyHook._noop

    def on_start(self, task: Any) -> None:
        """After the state was loaded, which draws for the loader."""
        self._seed(task)

    def on_phase_start(self, task: Any) -> None:
        """Before the first step of the phase, or of what is left of it."""
        self._seed(task)

    def on_step(self, task: Any) -> None:
        """Before the next step."""
        if TaskView(task).is_training:
            self._seed(task)

    def on_phase_end(self, task: Any) -> None:
        """Before the next phase draws for its loader."""
        self._seed(task)

    @staticmethod
    def _seed(task: Any) -> None:
        view = TaskView(task)
        seed_generators(
            step_seed(
                seed=settings.seed(view.cfg), rank=collective().rank, step=view.step
            )
        )


def step_seed(*, seed: int, rank: int, step: int) -> int:
    """A number in [0, 2^62) for a rank and a step; no image's key is among them.

    Args:
        seed: the run's.
        rank: of this process.
        step: training steps done.
    """
    # Images have epochs >= 0.
    return int(sample_keys(torch.tensor([rank]), seed=seed, epoch=-2 - step))


def seed_generators(seed: int) -> None:
    """Seeds torch (CPU and CUDA), numpy and Python's `random`."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
