"""Hook: watches a run. Figures to the log, TensorBoard and `health.jsonl`; verdicts.

What is measured is in `health.monitors`, what it means in `health.verdicts`.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any, TextIO

from classy_vision.generic.distributed_util import is_primary
from classy_vision.hooks.classy_hook import ClassyHook

from vissl_swav.health import monitors
from vissl_swav.health.errors import Collapsed
from vissl_swav.health.remedies import RunFacts, remedies
from vissl_swav.health.verdicts import LN_K, Finding, Judge, Signals, Verdict
from vissl_swav.host import settings
from vissl_swav.host.health_words import (
    MAX_NORM_ERROR,
    lengths_message,
    line_of,
    message_of,
)
from vissl_swav.host.loss_view import LossView
from vissl_swav.host.settings import health as health_settings
from vissl_swav.host.step_monitor import StepMonitor
from vissl_swav.host.task_view import TaskView

FILE_NAME = "health.jsonl"


class HealthHook(ClassyHook):
    """Reads as often as the host logs; `hook_share` is what that costs of a step.

    Verdicts rest on figures that are equal on all ranks, so that all ranks end alike.
    Their windows go into the checkpoint; a resume under other bounds of the loss, or
    with epochs of another length, begins them anew.
    """

    on_forward = ClassyHook._noop
    on_backward = ClassyHook._noop
    on_update = ClassyHook._noop
    on_step = ClassyHook._noop

    def __init__(self) -> None:
        super().__init__()
        self._monitor = StepMonitor()
        self._judge: Judge | None = None
        self._file: TextIO | None = None
        self._losses: list[float] = []
        self._saved: dict[str, Any] = {}
        self._of: list[float] = []
        self._window = 0
        self._clock: tuple[float, float] | None = None
        self._own_seconds = 0.0
        self._lengths_are_told = False
        self._ceiling_name = LN_K

    def on_start(self, task: Any) -> None:
        """Takes the windows of the checkpoint; the primary rank opens the file."""
        view = TaskView(task)
        # Nobody waits for the end of an epoch of a billion images.
        self._window = health_settings.window_steps(view.cfg, view.steps_per_epoch)
        self._judge = Judge(self._window)
        bounds = health_settings.bounds(view.cfg, with_queue=True)
        self._of = [self._window, *bounds]
        self._ceiling_name = health_settings.ceiling_name(view.cfg)
        saved, self._saved = self._saved, {}
        if saved.get("of") == self._of:
            self._judge.restore(saved["judge"])
            self._losses = list(saved["losses"])
        if is_primary():
            path = Path(view.checkpoint_folder) / FILE_NAME
            self._file = path.open("a", encoding="utf-8", buffering=1)

    def on_phase_start(self, task: Any) -> None:
        """The time between epochs belongs to no step."""
        self._clock = None

    def on_loss_and_meter(self, task: Any) -> None:
        """Counts; as often as the host logs, measures, tells and judges.

        Raises:
            Collapsed: with `ON_COLLAPSE: stop`, after the verdict.
        """
        view = TaskView(task)
        if not view.is_training or not view.loss_is_finite:
            return
        began = time.perf_counter()
        assert self._judge is not None
        loss = view.followed_loss
        self._judge.add(loss)
        self._losses.append(loss)
        self._monitor.count(view)
        finding = None
        if (view.step + 1) % settings.log_frequency(view.cfg) == 0:
            finding = self._read(view, self._judge)
        if (view.step + 1) % self._window == 0 and self._window < view.steps_per_epoch:
            self._count_distinct(view, view.step + 1)
        self._own_seconds += time.perf_counter() - began
        if finding is not None:
            self._say(view, finding)

    def on_phase_end(self, task: Any) -> None:
        """How many prototypes are distinct."""
        view = TaskView(task)
        if view.is_training:
            self._count_distinct(view, view.step)

    def _count_distinct(self, view: TaskView, step: int) -> None:
        """Once an epoch, or a window of a longer one; no rank waits for it."""
        if self._file is not None:
            weights = view.prototypes()
            if not weights:
                return
            distinct = sum(monitors.num_distinct(C) for C in weights)
            total = sum(len(C) for C in weights)
            logging.info(f"Health: {distinct} of {total} prototypes are distinct")
            self._write(
                {
                    "step": step,
                    "epoch": view.epoch,
                    "distinct_prototypes": distinct,
                    "num_prototypes": total,
                }
            )

    def on_end(self, task: Any) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def on_exception(self, task: Any) -> None:
        """Closes it too where the run ends early."""
        self.on_end(task)

    def get_classy_state(self) -> dict[str, Any]:
        """For the checkpoint: numbers and words in plain containers."""
        if self._judge is None:
            return self._saved
        return {
            "of": self._of,
            "judge": self._judge.state(),
            "losses": list(self._losses),
        }

    def set_classy_state(self, state_dict: dict[str, Any]) -> None:
        """Comes before `on_start`; empty from a checkpoint of before this was kept."""
        self._saved = dict(state_dict)

    def _read(self, view: TaskView, judge: Judge) -> Finding | None:
        in_use = LossView(view).queue_in_use
        ceiling, floor = health_settings.bounds(view.cfg, with_queue=in_use)
        loss = sum(self._losses) / len(self._losses)
        self._losses = []
        figures = self._monitor.measure(view)
        told = {"ceiling": ceiling, "floor": floor, "loss": loss}
        told |= {"progress": monitors.progress(loss, ceiling, floor), **figures}
        told |= self._times(view)
        self._tell(view, told)
        return judge.judge(
            Signals(
                step=view.step + 1,
                ceiling=ceiling,
                floor=floor,
                feature_spread=figures["feature_spread"],
                prototype_spread=figures.get("prototype_spread"),
                code_entropy=figures.get("code_entropy"),
                mean_code_entropy=figures.get("mean_code_entropy"),
                label_entropy=figures.get("label_entropy"),
                queue_in_use=in_use,
                ceiling_name=self._ceiling_name,
            )
        )

    def _times(self, view: TaskView) -> dict[str, float]:
        """Shares of the time since the last reading of this epoch."""
        now, waited = time.perf_counter(), view.seconds_waited
        last, self._clock = self._clock, (now, waited or 0.0)
        own, self._own_seconds = self._own_seconds, 0.0
        if last is None:
            return {}
        seconds = now - last[0]
        shares = {"hook_share": own / seconds}
        if waited is not None:
            shares["waiting_share"] = (waited - last[1]) / seconds
        return shares

    def _tell(self, view: TaskView, figures: dict[str, float]) -> None:
        if self._file is None:
            return
        step = view.step + 1
        self._write({"step": step, "epoch": view.epoch, **figures})
        prototypes = sum(len(C) for C in view.prototypes())
        logging.info(line_of(step, figures, prototypes, self._ceiling_name))
        if figures["norm_error"] > MAX_NORM_ERROR and not self._lengths_are_told:
            self._lengths_are_told = True
            logging.warning(lengths_message(step, figures["norm_error"]))
        writer = view.tensorboard
        if writer is not None:
            for name, value in figures.items():
                writer.add_scalar(f"Health/{name}", value, global_step=step)

    def _say(self, view: TaskView, finding: Finding) -> None:
        """Once: the judge is silent until its verdict changes."""
        action = health_settings.on_collapse(view.cfg)
        facts = RunFacts(
            **health_settings.remedy_facts(
                view.cfg, steps_per_epoch=view.steps_per_epoch
            ),
            learning_rate=view.learning_rate,
        )
        cures = remedies(finding.verdict, facts)
        message = message_of(view.step + 1, finding, cures)
        collapsed = finding.verdict is Verdict.COLLAPSED
        if self._file is not None:
            if not (collapsed and action == health_settings.IGNORE):
                serious = finding.verdict.is_alarm
                logging.log(logging.WARNING if serious else logging.INFO, message)
            self._write(
                {
                    "step": view.step + 1,
                    "epoch": view.epoch,
                    "verdict": finding.verdict.value,
                    "why": finding.why,
                    "remedies": cures,
                }
            )
        if collapsed and action == health_settings.STOP:
            raise Collapsed(
                f"{message} The run ends because config.HEALTH.ON_COLLAPSE is stop; "
                "the last checkpoint is whole."
            )

    def _write(self, line: dict[str, Any]) -> None:
        assert self._file is not None
        rounded = {
            key: round(value, 6) if isinstance(value, float) else value
            for key, value in line.items()
        }
        self._file.write(json.dumps(rounded) + "\n")
