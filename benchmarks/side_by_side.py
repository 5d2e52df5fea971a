"""Times several programs in one run, in turn, and prints ratios of their medians."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch


def measure(
    programs: Mapping[str, Callable[[], object]], *, rounds: int, block: int = 8
) -> dict[str, float]:
    """Median seconds of each program.

    The programs take turns in blocks of consecutive runs, so that a busy moment of
    the machine hits all of them, and each runs as in a training loop that uses it
    alone: the first two runs of a block, which find the memory allocator as another
    program left it, are not counted.

    Args:
        programs: name -> the work to time.
        rounds: blocks of each.
        block: timed runs in a block.

    Returns:
        name -> median seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            seconds = [_seconds(program) for _ in range(block + 2)]
            times[name].extend(seconds[2:])
    return {name: statistics.median(values) for name, values in times.items()}


def _seconds(program: Callable[[], object]) -> float:
    before = time.perf_counter()
    program()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - before


def report(medians: Mapping[str, float], baseline: str) -> None:
    """Prints a table: milliseconds, and how many times faster `baseline` is."""
    for name, value in medians.items():
        ratio = value / medians[baseline]
        print(f"{name:44s} {value * 1e3:9.2f} ms   {ratio:6.2f} x")


def machine() -> str:
    """The machine in one line, for the record beside a figure."""
    device = "CPU only"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    return (
        f"{platform.machine()}, {torch.get_num_threads()} threads, {device}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )
