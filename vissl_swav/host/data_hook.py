"""Hook: how fast data comes, how long the training waits for it, what is skipped."""

import logging
import time
from collections.abc import Iterator
from typing import Any

import torch
from classy_vision.generic.distributed_util import get_world_size, is_primary
from classy_vision.hooks.classy_hook import ClassyHook

from vissl_swav.backends.torch_collective import collective
from vissl_swav.data.errors import DataError
from vissl_swav.data.findings import num_cores
from vissl_swav.data.shard_reading import is_shard
from vissl_swav.host import settings
from vissl_swav.host.task_view import TaskView
from vissl_swav.host.unreadable import UnreadableReader

VERDICT_AFTER = 200
MAX_WAITING_SHARE = 0.2
_MAX_NAMED = 5
# A few broken images among the first ones say nothing of the rest of a stream.
_LEAST_SEEN = 1000


class TooManyUnreadable(DataError):
    """More images than `MAX_UNREADABLE_SHARE` allows cannot be read."""


class DataHook(ClassyHook):
    """A log line beside the host's, one verdict, and the end of a run on broken data.

    A step's time runs from the end of the step before; the first of a phase, in which
    workers start, counts for nothing.
    """

    on_forward = ClassyHook._noop
    on_loss_and_meter = ClassyHook._noop
    on_backward = ClassyHook._noop
    on_step = ClassyHook._noop

    def __init__(self) -> None:
        super().__init__()
        self._readers: dict[str, UnreadableReader] = {}
        self._last: float | None = None
        self._waited = 0.0
        self._recent = _Span()
        self._start = _Span()
        self._first_step = 0

    def on_start(self, task: Any) -> None:
        """Images that an earlier start could not read may have been mended since."""
        self._first_step = TaskView(task).step
        folder = TaskView(task).checkpoint_folder
        for split in ("train", "test"):
            self._readers[split] = UnreadableReader(folder, split)
            known = self._readers[split].forget()
            if known and is_primary():
                logging.info(f"{known} unreadable {split} images are on record already")

    def on_phase_start(self, task: Any) -> None:
        """The clock starts with the phase's second step."""
        self._last = None

    def on_update(self, task: Any) -> None:
        """Measures the step; as often as the host logs, a line and a look at files."""
        view = TaskView(task)
        self._measure(view)
        if (view.step + 1) % settings.log_frequency(view.cfg) == 0:
            self._check_unreadable(view)
            if is_primary():
                self._tell(view)

    def on_phase_end(self, task: Any) -> None:
        """What the rest of the phase could not read."""
        view = TaskView(task)
        if view.is_training:
            self._check_unreadable(view)
        else:
            self._tell_unreadable("test")

    def on_end(self, task: Any) -> None:
        """Nothing is left to do."""

    def _measure(self, view: TaskView) -> None:
        now, waited = time.perf_counter(), view.seconds_waited or 0.0
        if self._last is not None:
            seconds, wait = now - self._last, waited - self._waited
            self._recent.add(seconds, wait)
            if self._start.steps < VERDICT_AFTER:
                self._start.add(seconds, wait)
                if self._start.steps == VERDICT_AFTER and is_primary():
                    self._judge(view)
        self._last, self._waited = now, waited

    def _tell(self, view: TaskView) -> None:
        span, self._recent = self._recent, _Span()
        if span.steps:
            batch = settings.batch_of_one_process(view.cfg) * get_world_size()
            logging.info(
                f"Data: {batch * span.steps / span.seconds:.0f} images/s over all "
                f"ranks; {span.share:.0%} of the step spent waiting for data"
            )

    def _judge(self, view: TaskView) -> None:
        share = self._start.share
        if share > MAX_WAITING_SHARE:
            logging.warning(
                f"vissl_swav: DATA BOUND. {share:.0%} of the first "
                f"{VERDICT_AFTER} steps was spent waiting for data (wanted at most "
                f"{MAX_WAITING_SHARE:.0%}). {_remedy(view)}"
            )

    def _check_unreadable(self, view: TaskView) -> None:
        reader = self._tell_unreadable("train")
        # Every rank reads the files that it can see; the one that sees most decides.
        seen = torch.tensor(len(reader.reasons), device=view.device)
        broken = torch.tensor(sum(map(is_shard, reader.reasons)), device=view.device)
        worst = collective().all_reduce_max(torch.stack([seen, broken])).tolist()
        share = settings.max_unreadable_share(view.cfg)
        for count, total, what in self._counts(view, *worst):
            if count > share * total:
                raise TooManyUnreadable(
                    f"{count} of {total} {what} could not be read, more than "
                    f"config.DATA.TRAIN.MAX_UNREADABLE_SHARE={share} allows. They "
                    f"stand in {reader.pattern}; remove or replace them, or raise the "
                    "share."
                )

    def _counts(
        self, view: TaskView, named: int, broken: int
    ) -> Iterator[tuple[int, int, str]]:
        """What is unreadable, of how many; one broken shard of a stream always may be.

        A stream's images are held against those that this start has seen.
        """
        if view.num_shards is None:
            yield named, view.num_train_images, "training images"
            return
        seen = (view.step + 1 - self._first_step) * view.batch_size
        yield named - broken, max(seen, _LEAST_SEEN), "training images so far"
        yield max(0, broken - 1), view.num_shards, "shards (beside one)"

    def _tell_unreadable(self, split: str) -> UnreadableReader:
        reader = self._readers[split]
        new = reader.new()
        if new and is_primary():
            named = [f"{name} ({why})" for name, why in list(new.items())[:_MAX_NAMED]]
            more = f" and {len(new) - _MAX_NAMED} more" if len(new) > _MAX_NAMED else ""
            logging.warning(
                f"vissl_swav: {len(reader.reasons)} {split} images could not be read "
                f"so far; others took their place. New: {', '.join(named)}{more}. All "
                f"of them: {reader.pattern}"
            )
        return reader


class _Span:
    """Steps, their seconds, and those of them spent waiting."""

    def __init__(self) -> None:
        self.steps, self.seconds, self.waiting = 0, 0.0, 0.0

    def add(self, seconds: float, waiting: float) -> None:
        self.steps += 1
        self.seconds += seconds
        self.waiting += waiting

    @property
    def share(self) -> float:
        return self.waiting / self.seconds if self.seconds else 0.0


def _remedy(view: TaskView) -> str:
    """What helps, the likeliest first."""
    workers, cores = settings.num_workers(view.cfg), num_cores()
    ranks = view.processes_per_node
    remedies: list[str] = []
    wanted = max(1, cores // ranks - 1)
    if wanted > workers:
        remedies.append(
            f"config.DATA.NUM_DATALOADER_WORKERS={wanted} (it is {workers}; the "
            f"machine has {cores} cores for {ranks} rank(s))"
        )
    if view.device.type == "cuda" and not settings.crops_on_device(view.cfg):
        remedies.append(
            f"config.TRAINER.TRAIN_STEP_NAME={settings.TRAIN_STEP_NAME} (crops are "
            "made on the GPU)"
        )
    remedies.append(
        "smaller files (vissl-swav data-check shows their sizes; JPEGs of 500 pixels "
        "are enough for crops of 224), tar shards or a local disk if reading is slow"
    )
    return "In order: " + "; ".join(remedies) + "."
