"""Starts the process group with a time limit, and says who did not come.

torch waits 10 or 30 minutes for a process that never comes, and then names none. Here
every process tells the store that it is there, waits for the others as long as the
limit says, and after the group was made sums ones over it. What fails is one error that
names this process, its host, its network interface, and the processes that did not
answer.

As a program, for `vissl-swav doctor`: one process of a group that meets in a file,

    python -m vissl_swav.backends.process_group_check STORE RANK WORLD BACKEND SECONDS
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from vissl_swav.backends.network_interface import cure, describe

# Nodes of a job may start minutes apart.
DEFAULT_SECONDS = 600.0
LIMIT = "VISSL_SWAV_START_SECONDS"
_HERE, _SUMMED = "vissl_swav/here", "vissl_swav/summed"
_POLL_SECONDS, _ASK_SECONDS = 0.05, 5.0
Result = TypeVar("Result")
# Public names that the types of torch.distributed leave out.
_torch: Any = dist


class ProcessGroupError(RuntimeError):
    """The processes of a run did not find each other, or do not exchange data."""


def limit_seconds() -> float:
    """The limit that the environment sets, or the default.

    Raises:
        ProcessGroupError: the environment's is no positive number.
    """
    text = os.environ.get(LIMIT, "")
    try:
        seconds = float(text) if text else DEFAULT_SECONDS
    except ValueError:
        seconds = -1.0
    if not seconds > 0:
        raise ProcessGroupError(
            f"{LIMIT} is {text!r}; wanted a positive number of seconds."
        )
    return seconds


@contextmanager
def checked_start(*, seconds: float) -> Iterator[None]:
    """Inside it `init_process_group` is `start_group`, with the limit.

    For code that starts its group itself and cannot be told to call another function.
    """
    original = dist.init_process_group

    def checked(backend: str, *, init_method: str, world_size: int, rank: int) -> None:
        dist.init_process_group = original
        start_group(backend, init_method, world_size, rank, seconds=seconds)

    dist.init_process_group = checked
    try:
        yield
    finally:
        dist.init_process_group = original


def start_group(
    backend: str, init_method: str, world_size: int, rank: int, *, seconds: float
) -> None:
    """Starts the default process group and sums ones over it.

    The limit is of this start only: the group's own time limits stay torch's.

    Args:
        backend: "gloo" or "nccl".
        init_method: where the processes meet: tcp://HOST:PORT, env:// or file://PATH.
        world_size: number of processes.
        rank: of this process.
        seconds: to wait for the others, and again for the sum.

    Raises:
        ProcessGroupError: a process does not answer, or data do not pass.
    """
    whoami = describe(backend, rank, world_size)
    try:
        store = _meet(init_method, rank, world_size, seconds)
    except Exception as error:  # torch raises several types, by version.
        raise ProcessGroupError(
            f"{whoami}: {_no_store(init_method)} within {seconds:g} s "
            f"({type(error).__name__}: {_first_line(error)}). {cure(backend, LIMIT)}"
        ) from error
    missing = _wait_for_all(store, _HERE, rank, world_size, seconds)
    if missing:
        raise ProcessGroupError(
            f"{whoami}: {_ranks(missing)} of {world_size} did not come within "
            f"{seconds:g} s; here are {_who_is_here(store, world_size)}. Look at the "
            f"logs of the missing ones. {cure(backend, LIMIT)}"
        )
    device, watched = _device(backend), _second_client(store)

    def exchange() -> float:
        dist.init_process_group(
            backend,
            store=_torch.PrefixStore("vissl_swav/group", store),
            world_size=world_size,
            rank=rank,
        )
        ones = torch.ones(1, device=device)
        dist.all_reduce(ones)
        return float(ones)

    try:
        total = _within(seconds, exchange)
    except Exception as error:
        raise ProcessGroupError(
            f"{whoami}: all {world_size} processes came, but a sum over them did not "
            f"end within {seconds:g} s ({type(error).__name__}: {_first_line(error)}); "
            f"no answer from {_silent(watched, rank, world_size)}. "
            f"{cure(backend, LIMIT)}"
        ) from error
    watched.set(f"{_SUMMED}/{rank}", "1")
    if total != world_size:
        raise ProcessGroupError(
            f"{whoami}: a sum of ones over {world_size} processes gave {total:g}; the "
            "processes do not belong to one run, or the network changes data."
        )


def _meet(init_method: str, rank: int, world_size: int, seconds: float) -> Any:
    """The store at the meeting place; it does not wait for the others."""
    limit = timedelta(seconds=seconds)
    scheme, _, place = init_method.partition("://")
    if scheme != "tcp":
        made = _torch.rendezvous(init_method, rank, world_size, timeout=limit)
        return next(iter(made))[0]
    host, _, port = place.rpartition(":")
    return _torch.TCPStore(
        host,
        int(port),
        world_size,
        is_master=rank == 0,
        timeout=limit,
        wait_for_workers=False,
        multi_tenant=True,
    )


def _no_store(init_method: str) -> str:
    if init_method.startswith("tcp://"):
        return f"the meeting place {init_method}, which rank 0 opens, does not answer"
    return f"the meeting place {init_method} cannot be reached"


def _wait_for_all(
    store: Any, name: str, rank: int, world_size: int, seconds: float
) -> list[int]:
    """Ranks that have not told the store in time that they are there."""
    store.set(f"{name}/{rank}", socket.gethostname())
    end = time.monotonic() + seconds
    missing = _missing(store, name, world_size)
    while missing and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
        missing = _missing(store, name, world_size)
    return missing


def _missing(store: Any, name: str, world_size: int) -> list[int]:
    try:
        return [r for r in range(world_size) if not store.check([f"{name}/{r}"])]
    except RuntimeError:  # The store went away with rank 0.
        return [0]


def _second_client(store: Any) -> Any:
    """Another connection to the store, where torch can make one.

    While a group waits in the store, a question by the same connection waits with it.
    """
    return store.clone() if hasattr(store, "clone") else store


def _silent(store: Any, rank: int, world_size: int) -> str:
    """The other processes that did not get the sum, in words."""
    try:
        silent = _within(
            _ASK_SECONDS, lambda: _missing(store, _SUMMED, world_size) or [rank]
        )
    except Exception:  # The store itself does not answer.
        return "processes that the store cannot tell"
    others = [other for other in silent if other != rank]
    return _ranks(others) if others else "this process alone"


def _who_is_here(store: Any, world_size: int) -> str:
    missing = _missing(store, _HERE, world_size)
    here = [r for r in range(world_size) if r not in missing]
    hosts = [store.get(f"{_HERE}/{r}").decode() for r in here[:16]]
    words = [f"{r} on {host}" for r, host in zip(here, hosts, strict=False)]
    return ", ".join(words) + (" and others" if len(here) > 16 else "")


def _within(seconds: float, function: Callable[[], Result]) -> Result:
    """The function's result; it is left running, on its own thread, at the limit.

    Raises:
        TimeoutError: the limit passed.
        Exception: what the function raised.
    """
    box: list[Any] = []

    def run() -> None:
        try:
            box.append(function())
        except Exception as error:
            box.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not box:
        raise TimeoutError("no result")
    if isinstance(box[0], Exception):
        raise box[0]
    return box[0]


def _device(backend: str) -> str:
    """Where the backend sums: NCCL on this process's GPU."""
    if backend != "nccl" or not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0'))}"


def _ranks(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:16])) + (", ..." if len(ranks) > 16 else "")
    return f"rank{'' if len(ranks) == 1 else 's'} {shown}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def main(arguments: list[str]) -> int:
    """One process of a group that meets in a file; returns 1 where that fails."""
    place, rank, world_size, backend, seconds = arguments
    try:
        start_group(
            backend,
            f"file://{place}",
            int(world_size),
            int(rank),
            seconds=float(seconds),
        )
    except ProcessGroupError as error:
        print(error, file=sys.stderr)
        return 1
    print("summed")
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
