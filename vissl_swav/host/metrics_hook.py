"""Hook: one JSON line per training step, for curves and progress bars."""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import torch
from classy_vision.generic.distributed_util import is_primary
from classy_vision.hooks.classy_hook import ClassyHook

from vissl_swav.host.task_view import TaskView

FILE_NAME = "steps.jsonl"


class MetricsHook(ClassyHook):
    """Appends a line a step to `steps.jsonl`.

    `{"step", "max_step", "epoch", "loss", "lr", "images", "peak_memory", "time"}`:
    `images` of the step over all processes, `peak_memory` of this process in bytes (of
    the GPU where there is one, else all its memory), `time` in seconds since the epoch
    of the clock. Where the loader is ours, `waited` is how many seconds of the step
    passed waiting for data; of a weighted sum `terms` has each term's value before its
    weight. A resumed run appends.
    """

    on_phase_start = ClassyHook._noop
    on_forward = ClassyHook._noop
    on_loss_and_meter = ClassyHook._noop
    on_backward = ClassyHook._noop
    on_phase_end = ClassyHook._noop
    on_step = ClassyHook._noop

    def __init__(self) -> None:
        super().__init__()
        self._file: TextIO | None = None
        self._waited = 0.0

    def on_start(self, task: Any) -> None:
        """Opens the file on the primary rank."""
        if is_primary():
            path = Path(TaskView(task).checkpoint_folder) / FILE_NAME
            self._file = path.open("a", encoding="utf-8", buffering=1)

    def on_update(self, task: Any) -> None:
        """Writes the line of this step."""
        if self._file is None:
            return
        view = TaskView(task)
        line = {
            "step": view.step + 1,
            "max_step": view.max_step,
            "epoch": view.epoch,
            "loss": view.last_loss,
            "lr": view.learning_rate,
            "images": view.batch_size,
            "peak_memory": peak_memory(view.device),
            "time": time.time(),
        }
        if view.terms:
            line["terms"] = view.terms
        waited = view.seconds_waited
        if waited is not None:
            line["waited"] = round(waited - self._waited, 6)
            self._waited = waited
        self._file.write(json.dumps(line) + "\n")

    def on_end(self, task: Any) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
