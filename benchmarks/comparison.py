"""The comparison that the paper draws (Fig. 3, left), at the size of a laptop.

    python benchmarks/comparison.py --data CIFAR10              # small, for two cores
    python benchmarks/comparison.py --data CIFAR10 --device cuda --full
    python benchmarks/comparison.py --data CIFAR10 --search

Rows are methods, columns 2 crops and multi-crop, each with 3 seeds: trained by
`vissl-swav train`, judged on the frozen trunk (linear and k-NN). What is held equal
stands in `comparison_plan.py`. CIFAR10 is an image folder with train/ and test/.

Runs that have finished are not run again, and one that was broken off goes on; one that
fails is named, and the rest goes on (exit code 1). Writes `comparison.{json,md,png}`
below `--out`, also when it is broken off (exit code 130). `--search` tries the same few
temperatures for every method and prints what they give.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import comparison_plan as plan
import comparison_run
import comparison_table
import torch
from comparison_plan import Cell
from comparison_run import Place
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from vissl_swav.data.errors import DataError
from vissl_swav.host.errors import StartError
from vissl_swav.suite.stage import Report, StageFailed
from vissl_swav.suite.table_jobs import write_whole
from vissl_swav.suite.table_runs import Machine

INTERRUPTED = 130
Outcomes = dict[Cell, dict[str, Any] | str]


class Stopped(Exception):
    """The user has broken the comparison off."""


def run_all(cells: Sequence[Cell], place: Place, jobs: int) -> tuple[Outcomes, bool]:
    """Runs what has not finished, several at once.

    Args:
        cells: in the order in which they start.
        place: where.
        jobs: runs at once.

    Returns:
        What each run left, or why it failed, of those that have ended; and whether the
        user broke it off.
    """
    outcomes: Outcomes = {}
    todo = []
    for cell in cells:
        result = comparison_run.kept(cell, place.out, place.size)
        if result is None:
            todo.append(cell)
        else:
            outcomes[cell] = result
    stop = threading.Event()
    display = _Display(len(cells), len(outcomes))
    with display, ThreadPoolExecutor(jobs) as pool:
        try:
            futures = {
                pool.submit(_attempt, cell, place, display, stop): cell for cell in todo
            }
            for future in as_completed(futures):
                outcomes[futures[future]] = future.result()
        except KeyboardInterrupt:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            display.say("Breaking off; runs under way write a checkpoint first.")
            return outcomes, True
    return outcomes, False


def _attempt(
    cell: Cell, place: Place, display: "_Display", stop: threading.Event
) -> dict[str, Any] | str:
    with display.line(cell.name) as report:

        def stoppable(step: int, total: int, text: str) -> None:
            if stop.is_set():
                raise Stopped
            report(step, total, text)

        try:
            return comparison_run.run(cell, place, stoppable)
        except Stopped:
            return "broken off"
        except (StageFailed, StartError, DataError, OSError, ValueError) as error:
            display.say(f"{cell.name} failed: {error}")
            return str(error)


class _Display:
    """A bar over all runs, and one for each that is under way."""

    def __init__(self, total: int, done: int):
        columns = (
            TextColumn("{task.description:36}"),
            BarColumn(),
            TextColumn("{task.fields[text]:>20}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._total, self._done = total, done
        self._whole = self._progress.add_task(
            "comparison", total=total, completed=done, text=f"{done}/{total}"
        )

    def __enter__(self) -> "_Display":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """A line above the bars."""
        self._progress.console.print(text, markup=False, highlight=False)

    @contextmanager
    def line(self, name: str) -> Iterator[Report]:
        """A run's bar, gone when the run has ended."""
        task = self._progress.add_task(name, total=None, text="")

        def report(step: int, total: int, text: str) -> None:
            self._progress.update(task, completed=step, total=total, text=text)

        try:
            yield report
        finally:
            self._progress.remove_task(task)
            self._done += 1
            text = f"{self._done}/{self._total}"
            self._progress.update(self._whole, completed=self._done, text=text)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", choices=list(plan.SIZES), default="small")
    parser.add_argument("--full", action="store_const", const="full", dest="size")
    parser.add_argument("--methods", nargs="+", choices=list(plan.METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(plan.SEEDS))
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--workers", type=int, default=0, help="of each loader")
    parser.add_argument("--search", action="store_true")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no CUDA device; give --device cpu.", file=sys.stderr)
        return 2
    size = plan.SIZES[args.size]
    out = args.out.resolve() / size.name
    # One thread a run: several at once then share the cores, not fight for them.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    machine = Machine("gpu" if args.device == "cuda" else "cpu", 1, args.workers)
    try:
        data = comparison_run.Data(args.data.resolve(), out, size)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    methods = args.methods or tuple(plan.METHODS)
    cells = list(
        plan.search_cells(methods) if args.search else plan.cells(methods, args.seeds)
    )
    place = Place(out, size, machine, data)
    outcomes, interrupted = run_all(cells, place, args.jobs)
    if args.search:
        print(comparison_table.search_markdown(outcomes))
    else:
        _write(outcomes, place)
    failed = {c.name: text for c, text in outcomes.items() if isinstance(text, str)}
    for name, text in failed.items():
        print(f"{name} failed: {text}", file=sys.stderr)
    if interrupted:
        print("Interrupted. The same command goes on where it stopped.")
        return INTERRUPTED
    return 1 if failed else 0


def _write(outcomes: Outcomes, place: Place) -> None:
    """Table, plot and JSON of what there is."""
    done = {c: r for c, r in outcomes.items() if not isinstance(r, str)}
    table = comparison_table.Table.of(done)
    text = comparison_table.markdown(table)
    print(text)
    write_whole(place.out / "comparison.md", text + "\n")
    content = {
        "size": place.size.__dict__,
        "device": place.machine.device,
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(comparison_run.seconds(list(done.values()))),
        "table": table.as_json(),
        "runs": [{"name": c.name, **r} for c, r in done.items()],
        "failed": {c.name: r for c, r in outcomes.items() if isinstance(r, str)},
    }
    write_whole(place.out / "comparison.json", json.dumps(content, indent=2) + "\n")
    if done:
        comparison_table.plot(table, place.out / "comparison.png")


if __name__ == "__main__":
    sys.exit(main())
