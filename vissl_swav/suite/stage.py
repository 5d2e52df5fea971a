"""One run of the host in a process of its own, with a log file and a progress bar."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vissl_swav.host.quoting import quoted

Report = Callable[[int, int, str], None]
# For a checkpoint of a large model, on SIGTERM.
SECONDS_TO_END = 60.0


class StageFailed(RuntimeError):
    """A run ended with an error; the message holds what the user needs of its log.

    Args:
        message: for the user.
        exit_code: 2 where the run was refused before it started, else 1.
    """

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def run(
    name: str, overrides: Sequence[str], folder: Path, report: Report | None = None
) -> None:
    """Runs `vissl-swav train` with the overrides; output goes to `folder/log.txt`.

    Args:
        name: what the run is called in messages.
        overrides: of the host's command line, the checkpoint folder excepted; paths in
            them are `quoted`.
        folder: the run's checkpoint folder.
        report: called with (step, steps of the run, text) as the run goes on.

    Raises:
        DataError: the folder's path cannot go through a config.
        StageFailed: the run ended with an error.
    """
    command = [sys.executable, "-m", "vissl_swav.train", *overrides]
    command.append(f"config.CHECKPOINT.DIR={quoted(folder)}")
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ}
        )
        try:
            _follow(process, _steps_file(folder), report)
        finally:
            _end(process)
    if process.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
        raise StageFailed(
            f"{name} ended with exit code {process.returncode}; the whole log is in "
            f"{log}, its last lines:\n  " + "\n  ".join(tail),
            2 if process.returncode == 2 else 1,
        )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Asks the run to write a checkpoint and go; insists after a while."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def steps(folder: Path) -> list[dict[str, Any]]:
    """The step lines of a run, in order, the last one of each step."""
    path = _steps_file(folder)
    if not path.exists():
        return []
    by_step = {line["step"]: line for line in _lines(path)}
    return [by_step[step] for step in sorted(by_step)]


def _steps_file(folder: Path) -> Path:
    # Imported late: it imports the host, whose absence the command line reports.
    from vissl_swav.host.metrics_hook import FILE_NAME

    return folder / FILE_NAME


def _follow(
    process: "subprocess.Popen[bytes]", path: Path, report: Report | None
) -> None:
    while process.poll() is None:
        time.sleep(0.2)
        if report is not None and path.exists():
            for last in list(_lines(path))[-1:]:
                report(last["step"], last["max_step"], f"loss {last['loss']:.3f}")


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Whole lines; the last one may still be under way."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue
