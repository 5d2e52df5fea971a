"""Joins the start of the process group, and how it sums, to the host's trainer.

The host starts the group in `SelfSupervisionTrainer.setup_distributed` and waits for
missing processes as long as torch does, 10 or 30 minutes, without a word on which.
After `train` has wrapped the model it calls `_init_training_state`; there is the moment
to say in which order gradients are added up.
"""

import logging
from typing import Any

from vissl_swav.backends.ordered_gradients import sum_in_rank_order
from vissl_swav.backends.process_group_check import checked_start, limit_seconds


def join(trainer_main: Any) -> None:
    """Lets the trainers of `vissl.trainer.trainer_main` start with the check."""
    trainer = trainer_main.SelfSupervisionTrainer
    if hasattr(trainer, "_vissl_swav_joined"):
        return
    host_setup = trainer.setup_distributed
    host_state = trainer._init_training_state

    def setup_distributed(self: Any, use_gpu: bool) -> None:
        seconds = limit_seconds()
        with checked_start(seconds=seconds):
            host_setup(self, use_gpu)
        logging.info("vissl_swav: all processes answer")

    def _init_training_state(cfg: Any, task: Any) -> Any:
        if sum_in_rank_order(task.distributed_model):
            logging.info("vissl_swav: gradients are summed in the order of the ranks")
        return host_state(cfg, task)

    trainer.setup_distributed = setup_distributed
    trainer._init_training_state = staticmethod(_init_training_state)
    trainer._vissl_swav_joined = True
