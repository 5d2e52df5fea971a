"""Joins the checked start of the process group to the host's trainer.

The host starts the group in `SelfSupervisionTrainer.setup_distributed` and waits for
missing processes as long as torch does, 10 or 30 minutes, without a word on which.
"""

import logging
from typing import Any

from vissl_swav.backends.process_group_check import checked_start, limit_seconds


def join(trainer_main: Any) -> None:
    """Lets the trainers of `vissl.trainer.trainer_main` start with the check."""
    trainer = trainer_main.SelfSupervisionTrainer
    if hasattr(trainer, "_vissl_swav_joined"):
        return
    host_setup = trainer.setup_distributed

    def setup_distributed(self: Any, use_gpu: bool) -> None:
        seconds = limit_seconds()
        with checked_start(seconds=seconds):
            host_setup(self, use_gpu)
        logging.info("vissl_swav: all processes answer")

    trainer.setup_distributed = setup_distributed
    trainer._vissl_swav_joined = True
