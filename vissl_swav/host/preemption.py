"""SIGTERM, the notice that a scheduler gives before it takes the machine away.

Who gets it differs: a scheduler may signal every process of a job or one of them. So
the launching process hands it on to the ranks; a rank takes note and goes on to the
next step; a worker that loads data goes on until its rank needs it no more.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

# EX_TEMPFAIL of sysexits.h: "try again later". SLURM: requeue on it.
EXIT_CODE = 75
SECONDS = "VISSL_SWAV_PREEMPTION_SECONDS"
_DEFAULT_SECONDS = 120.0


class Notice:
    """Whether this process has been told to end, and how long it has.

    Attributes:
        seconds: from the signal to the end of the process, whatever it is doing then.
    """

    def __init__(self) -> None:
        self.seconds = _seconds_allowed()
        self._given = threading.Event()

    @property
    def given(self) -> bool:
        """Whether the signal has come."""
        return self._given.is_set()

    def give(self, *_: Any) -> None:
        """Takes note of the signal; the second one changes nothing."""
        if self._given.is_set():
            return
        self._given.set()
        timer = threading.Timer(self.seconds, _end_now, [self.seconds])
        timer.daemon = True
        timer.start()


def listen() -> Notice:
    """From here on SIGTERM is noted; for the main thread of a rank.

    The signal is also blocked, which the processes started from here inherit: a
    forkserver, and the workers that it makes, outlive it (`shield_worker`).
    """
    notice = Notice()
    if threading.current_thread() is not threading.main_thread():
        return notice
    # A library's thread may be the one that gets it.
    signal.signal(signal.SIGTERM, notice.give)
    _wait_for_it(lambda info: notice.give())
    return notice


def shield_worker() -> None:
    """In a loader's worker: only its own rank can end it by SIGTERM."""
    parent = multiprocessing.parent_process()
    mine = {os.getppid(), parent.pid if parent is not None else None}

    def judge(info: Any) -> None:
        if info.si_pid in mine:
            os._exit(0)

    _wait_for_it(judge)


def join_workers(misc: Any) -> None:
    """Every worker of a loader calls the host's `set_dataloader_seeds` first."""
    from vissl_swav.compat.wrapping import wrap

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def set_dataloader_seeds(worker_id: int) -> None:
            if signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, []):
                shield_worker()
            original(worker_id)

        return set_dataloader_seeds

    wrap(misc, "set_dataloader_seeds", around, shim="preemption")


def join_launcher(distributed_launcher: Any) -> None:
    """The launching process hands the notice on, and exits as its ranks did."""
    from vissl_swav.compat.wrapping import wrap

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def launch_distributed(*arguments: Any, **options: Any) -> Any:
            with exit_code_of_ranks():
                return original(*arguments, **options)

        return launch_distributed

    wrap(distributed_launcher, "launch_distributed", around, shim="preemption")


@contextlib.contextmanager
def exit_code_of_ranks() -> Iterator[None]:
    """Around the code that starts ranks and waits for them.

    Raises:
        SystemExit: with `EXIT_CODE`, if ranks ended for a notice.
    """
    from torch.multiprocessing.spawn import ProcessExitedException

    given: list[int] = []

    def hand_on(number: int, frame: Any) -> None:
        given.append(number)
        children = multiprocessing.active_children()
        for child in children:
            child.terminate()
        if not children:  # Still starting: nothing is lost.
            raise SystemExit(EXIT_CODE)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        yield
    except ProcessExitedException as error:
        if error.exit_code == EXIT_CODE or (given and error.exit_code == -given[0]):
            raise SystemExit(EXIT_CODE) from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _wait_for_it(then: Callable[[Any], None]) -> None:
    """Blocks SIGTERM in this thread; another one waits for it and calls `then`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while True:
            then(signal.sigwaitinfo({signal.SIGTERM}))

    threading.Thread(target=wait, name="vissl_swav-SIGTERM", daemon=True).start()


def _seconds_allowed() -> float:
    text = os.environ.get(SECONDS, str(_DEFAULT_SECONDS))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise ValueError(f"{SECONDS} is {text!r}; wanted a number of seconds above 0")
    return seconds


def _end_now(seconds: float) -> None:
    logging.error(
        f"vissl_swav: {seconds:g} s after SIGTERM the step or the checkpoint is not "
        f"done ({SECONDS} sets the time): exit {EXIT_CODE}. The last checkpoint is "
        "whole."
    )
    logging.shutdown()
    time.sleep(0.1)
    os._exit(EXIT_CODE)
