"""Runs trainings, each start of them ended by a signal at its own moment.

    python tests/interrupted_runs.py FOLDER SIGNAL:PLACE:NUMBER,... [FOLDER ...]
        -- key=value ...

`KILL:step:8` is SIGKILL after the eighth step, `TERM:phase:2` is SIGTERM when the third
epoch begins, its labels found. A signal goes to every process of the run. After the
last one, or without any, the run goes through. The exit codes of all starts are the
last line of the output; `FOLDER.log` has what a run said.

The host is imported once and forked for each start and each rank, which saves most of
the time of a tiny run; nothing is computed before a fork.
"""

import json
import os
import signal
import sys
import warnings
from importlib import import_module

import torch

from vissl_swav import train

STATE = {"end": None}


def start(arguments, log, end):
    """One start in a session of its own; returns its exit code."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.setsid()
    code = 1
    try:
        with open(log, "a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        STATE["end"] = end
        code = train.main(arguments)
    except SystemExit as error:
        code = error.code
    finally:
        sys.stdout.flush()
        os._exit(code)


def fork_ranks():
    """The host's launcher then forks its ranks."""
    from torch.multiprocessing.spawn import start_processes

    def forked(function, *, nprocs, args, daemon):
        return start_processes(function, args, nprocs, True, daemon, "fork")

    torch.multiprocessing.spawn = forked


def signal_ourselves():
    """Our last hook sends the signal, on rank 0, to all processes of the run."""
    from vissl_swav.backends.torch_collective import collective
    from vissl_swav.host.preemption_hook import PreemptionHook
    from vissl_swav.host.task_view import TaskView

    def send(place, number):
        if STATE["end"] is None or not collective().rank == 0:
            return
        name, where, when = STATE["end"]
        if (where, int(when)) == (place, number):
            os.killpg(0, getattr(signal, f"SIG{name}"))

    original = PreemptionHook.on_step

    def on_step(self, task):
        original(self, task)
        if task.train:
            send("step", TaskView(task).step)

    def on_phase_start(self, task):
        if task.train:
            send("phase", task.train_phase_idx)

    PreemptionHook.on_step, PreemptionHook.on_phase_start = on_step, on_phase_start


def main(arguments):
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("engines", "trainer", "hooks", "utils.distributed_launcher"):
        import_module(f"vissl.{name}")
    for name in ("vissl_swav.host.launch", "sklearn.metrics"):
        import_module(name)
    fork_ranks()
    signal_ourselves()
    split = arguments.index("--")
    runs, overrides = arguments[:split], arguments[split + 1 :]
    codes = []
    for folder, ends in zip(runs[::2], runs[1::2], strict=True):
        wanted = [tuple(end.split(":")) for end in ends.split(",") if end]
        settings = [*overrides, f"config.CHECKPOINT.DIR={folder}"]
        codes.append([start(settings, f"{folder}.log", e) for e in [*wanted, None]])
    print(json.dumps(codes))


if __name__ == "__main__":
    main(sys.argv[1:])
