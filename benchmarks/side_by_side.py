"""Times several programs in one run, in turn, and prints ratios of their medians."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping

import torch


def measure(
    programs: Mapping[str, Callable[[], object]], *, rounds: int, seconds: float = 20.0
) -> dict[str, float]:
    """Median seconds of each program.

    The programs take turns, so that a busy moment of the machine hits all of them.

    Args:
        programs: name -> the work to time.
        rounds: measurements of each, at most.
        seconds: stop after so long per program, with at least 5 measurements.

    Returns:
        name -> median seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in programs}
    for program in programs.values():
        for _ in range(3):
            program()
    started = time.perf_counter()
    for done in range(rounds):
        for name, program in programs.items():
            before = time.perf_counter()
            program()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - before)
        over = time.perf_counter() - started > seconds * len(programs)
        if over and done >= 4:
            break
    return {name: statistics.median(values) for name, values in times.items()}


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
