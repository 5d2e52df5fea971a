"""Looking at a machine without being held up by it: every probe has a time limit.

A probe that imports something runs in a process of its own, in a session of its own, so
that a crash, a hang or a child of it cannot take the asker along.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path


@dataclass(frozen=True)
class Answer:
    """What a program said.

    Attributes:
        code: its exit code; None where it did not end in time or could not start.
        out: standard output, without spaces around it.
        error: the last line of standard error, or why there is no answer.
    """

    code: int | None
    out: str = ""
    error: str = ""

    @property
    def ok(self) -> bool:
        """Whether it ended well."""
        return self.code == 0


def ask(
    command: Sequence[str], *, seconds: float, env: Mapping[str, str] | None = None
) -> Answer:
    """Runs a program for at most so many seconds; never raises."""
    return ask_all([command], seconds=seconds, env=env)[0]


def ask_all(
    commands: Sequence[Sequence[str]],
    *,
    seconds: float,
    env: Mapping[str, str] | None = None,
) -> list[Answer]:
    """Runs programs side by side; what has not ended at the limit is killed."""
    with tempfile.TemporaryDirectory() as folder:
        running = [
            _start(command, Path(folder) / str(number), env)
            for number, command in enumerate(commands)
        ]
        processes = [p for p in running if isinstance(p, subprocess.Popen)]
        end = time.monotonic() + seconds
        try:
            for process in processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, end - time.monotonic()))
        finally:
            late = [p.pid for p in processes if p.poll() is None]
            for process in processes:
                _kill(process)
        return [
            process
            if isinstance(process, Answer)
            else _answer(process, Path(folder) / str(number), process.pid in late)
            for number, process in enumerate(running)
        ]


def installed() -> dict[str, list[str]]:
    """Normalised name of every distribution on the path -> its versions."""
    found: dict[str, list[str]] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name:
            plain = name.lower().replace("_", "-").replace(".", "-")
            found.setdefault(plain, []).append(distribution.version)
    return found


def files_of(name: str) -> set[str]:
    """Files that a distribution says it installed; empty where it does not say."""
    for distribution in distributions(name=name):
        return {str(file) for file in distribution.files or ()}
    return set()


def _start(
    command: Sequence[str], place: Path, env: Mapping[str, str] | None
) -> subprocess.Popen[bytes] | Answer:
    # To files, not pipes: a grandchild that keeps a pipe open would be waited for.
    try:
        with open(f"{place}.out", "wb") as out, open(f"{place}.err", "wb") as err:
            return subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )
    except OSError as error:
        return Answer(None, error=str(error))


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The whole session: what the program started goes with it."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _answer(process: subprocess.Popen[bytes], place: Path, is_late: bool) -> Answer:
    out, err = (
        Path(f"{place}.{kind}").read_text(encoding="utf-8", errors="replace").strip()
        for kind in ("out", "err")
    )
    if is_late:
        return Answer(None, out, "no answer within the time limit")
    last = err.splitlines()[-1] if err else f"exit code {process.returncode}"
    return Answer(process.returncode, out, last)
