"""How a run that ends early says so: one message and an exit code.

What we raise ourselves says what was got, what was wanted and the remedy; its traceback
tells a user nothing and goes to `log.txt`. What is unknown keeps its traceback on the
terminal. In a spawned rank the error object is lost: torch hands over its traceback as
text, of which the last exception is read here.
"""

import contextlib
import logging
import os
import re
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from vissl_swav.backends.process_group_check import ProcessGroupError
from vissl_swav.compat.checkpoint_files import CheckpointError
from vissl_swav.compat.checkpoint_loading import BrokenFile, UnsafeFile
from vissl_swav.compat.checkpoint_writing import CheckpointNotWritten
from vissl_swav.compat.module_proxy import overlay
from vissl_swav.data.errors import DataError
from vissl_swav.health.errors import RunStopped
from vissl_swav.host.errors import StartError

LOG_FILE = "log.txt"
# The start is refused; the same command would be refused again.
REFUSED = (StartError, ProcessGroupError, CheckpointError, UnsafeFile, BrokenFile)
STOPPED = (DataError, RunStopped, CheckpointNotWritten)
INTERRUPTED = 130  # 128 + SIGINT, as shells say it.
_TRACEBACK = "Traceback (most recent call last):\n"
_OURS = re.compile(r"(vissl_swav(?:\.\w+)+)\.(\w+): ")
_GO_ON = "The same command goes on from the last checkpoint."
_CURES = {
    "SIGKILL": "From outside it comes, as a rule, when the machine is short of memory "
    "(the kernel's log says so): fewer loader workers or a smaller batch help.",
    "SIGBUS": "As a rule the shared memory is full (`df /dev/shm`): give the container "
    "more, or use fewer loader workers.",
    "SIGSEGV": "A compiled library failed: `vissl-swav doctor` shows pairs of versions "
    "that do not fit.",
}


class Ending(NamedTuple):
    """What is left to say of a run.

    Attributes:
        message: for the user.
        exit_code: 2 for a start that is refused, else 1.
        traceback: to be shown before it, where the error is not one of ours.
    """

    message: str
    exit_code: int
    traceback: str | None = None


def ending_of(error: Exception) -> Ending | None:
    """How to end for an error; None where Python's own way is best.

    Args:
        error: what came out of the host's launcher, or of the checks before it.
    """
    if isinstance(error, REFUSED + STOPPED):
        # From a loader's worker it comes with the worker's traceback for a message.
        message = (_last_error(str(error)) or (None, str(error)))[1]
        return Ending(_named(message, _rank_here()), _exit_code(type(error)))
    if isinstance(error, ProcessRaisedException):
        return _of_a_rank(str(error), _rank(error))
    if isinstance(error, ProcessExitedException):
        return Ending(_of_a_death(error), 1)
    return None


@contextlib.contextmanager
def recorded(folder: Path) -> Iterator[None]:
    """Inside it, the traceback of an error that ends with one message goes to a file.

    Args:
        folder: of the run; the file is its `log.txt`.
    """
    try:
        yield
    except Exception as error:
        ending = ending_of(error)
        if ending is not None and ending.traceback is None:
            for handler in logging.root.handlers:
                handler.flush()
            with (
                contextlib.suppress(OSError),
                (folder / LOG_FILE).open("a", encoding="utf-8") as log,
            ):
                log.write(f"{''.join(traceback.format_exception(error)).rstrip()}\n")
        raise


def mend_last_words(distributed_launcher: Any) -> None:
    """Lets the host's launcher end in words.

    VISSL 0.1.6 (`vissl/utils/distributed_launcher.py:167`) logs what it has caught by a
    format without a place for it, so that logging prints a traceback of its own; Ctrl-C
    is "All Done!" to it, with exit code 0.
    """

    def error(text: str, caught: object = None, *_: object) -> None:
        if isinstance(caught, KeyboardInterrupt):
            logging.error(f"Interrupted. {_GO_ON}")
            raise SystemExit(INTERRUPTED)
        what = "" if caught is None else type(caught).__name__
        logging.error("%s%s", text, what)

    overlay(distributed_launcher, "logging", error=error)


def _of_a_rank(text: str, rank: int) -> Ending:
    found = _last_error(text)
    if found is None:
        last = text.rstrip().splitlines()[-1]
        return Ending(_named(last, rank), 1, traceback=text.strip())
    kind, message = found
    return Ending(_named(message, rank), _exit_code(kind))


def _last_error(text: str) -> tuple[type[Exception], str] | None:
    """Type and message of the exception that a traceback ends with, if it is ours.

    Of an error in a loader's worker the traceback holds a second one; that counts.
    """
    lines = text.rpartition(_TRACEBACK)[2].splitlines()
    frames = next((n for n, line in enumerate(lines) if line[:1].strip()), len(lines))
    message = "\n".join(lines[frames:])
    match = _OURS.match(message)
    kind = match and getattr(import_module(match[1]), match[2], None)
    if not (isinstance(kind, type) and issubclass(kind, REFUSED + STOPPED)):
        return None
    assert match is not None
    return kind, message[match.end() :].rstrip()


def _of_a_death(error: ProcessExitedException) -> str:
    name = error.signal_name
    if name is None:
        how = f"ended with exit code {error.exit_code}; its output above says why."
    else:
        how = f"was ended by {name}. {_CURES.get(name, '')}".rstrip()
    return f"rank {_rank(error)} {how} {_GO_ON}"


def _rank(error: ProcessRaisedException | ProcessExitedException) -> int:
    """Over all machines: the host has left the rank of this one's first process."""
    return int(os.environ.get("RANK", "0")) + error.error_index


def _rank_here() -> int | None:
    """Of this process, where torchrun started it as one of several."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    return None if alone else int(os.environ.get("RANK", "0"))


def _named(message: str, rank: int | None) -> str:
    """With the rank, unless the message names it first."""
    if rank is None or message.startswith(f"rank {rank} "):
        return message
    return f"rank {rank}: {message}"


def _exit_code(kind: type[Exception]) -> int:
    return 2 if issubclass(kind, REFUSED) else 1
