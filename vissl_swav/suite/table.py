"""`vissl-swav table`: a recipe's benchmarks on checkpoints, and the table of them."""

import argparse
import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from vissl_swav import __version__
from vissl_swav.data.errors import DataError
from vissl_swav.host.errors import StartError
from vissl_swav.host.quoting import quoted
from vissl_swav.suite import stage, table_data, table_outputs
from vissl_swav.suite.recipe import Benchmark, Recipe, load_recipe
from vissl_swav.suite.table_data import DataSet
from vissl_swav.suite.table_jobs import (
    Job,
    Outcome,
    Place,
    final_checkpoint,
    write_whole,
)
from vissl_swav.suite.table_outputs import TransferTable
from vissl_swav.suite.table_rows import (
    Row,
    checkpoint_rows,
    other_rows,
    ready,
    setting_rows,
)
from vissl_swav.suite.table_runs import Machine
from vissl_swav.train import INSTALL_LINE, have_host

MARKER = "table.json"
INTERRUPTED = 130
_PLAIN_WIDTH = 160


def main(options: argparse.Namespace) -> int:
    """Runs the recipe; returns the exit code."""
    console = Console(stderr=True)
    if not have_host():
        console.print(INSTALL_LINE)
        return 2
    try:
        order = plan(options)
        if options.list:
            _print_plan(order)
            return 0
        if options.slurm is not None:
            _submit(order, options, console)
        table, interrupted = run(order, console, collect=options.slurm is not None)
    except (StartError, DataError) as error:
        console.print(
            f"vissl-swav table: {error}", style="red", markup=False, soft_wrap=True
        )
        return 2
    write(table, order)
    show(table, order.place.out)
    if interrupted:
        console.print("Interrupted. The same command goes on where it stopped.")
        return INTERRUPTED
    return 1 if failures(table) else 0


@dataclass(frozen=True)
class Order:
    """What is to be run.

    Attributes:
        recipe: with the benchmarks that were asked for.
        rows: checkpoints first.
        data: the recipe's data sets that there are.
        place: where runs and results go.
        only: the row to run; None for all.
        absent: state and message of what has not finished, where nothing is run.
    """

    recipe: Recipe
    rows: Sequence[Row]
    data: Mapping[str, DataSet]
    place: Place
    only: str | None = None
    absent: tuple[str, str] | None = None


def plan(options: argparse.Namespace) -> Order:
    """Checks everything that can be checked before the first run.

    Raises:
        StartError: checkpoints, recipe, columns or folder cannot be used.
        DataError: the data cannot.
    """
    recipe = _chosen(load_recipe(options.suite), options.columns)
    rows = _rows(recipe, options)
    out = Path(options.out)
    quoted(out)  # Raises what would stop the first run of the host.
    _check_free(out)
    machine = _machine(options)
    data = table_data.find_data(recipe, options.data, rows)
    if not data:
        wanted = "; ".join(f"{name}: {what}" for name, what in recipe.data.items())
        raise DataError(f"no data; wanted --data NAME=PATH with {wanted}.")
    place = Place(out, machine, options.seed)
    names = [row.name for row in rows]
    if options.row is not None and options.row not in names:
        raise StartError(f"--row is {options.row}; the rows are {', '.join(names)}.")
    order = Order(recipe, rows, data, place, options.row)
    for entry in recipe.benchmarks:  # Refuses a `$name` that stands for nothing.
        if entry.data in data:
            job_of(order, rows[0], entry, check_only=True)
    return order


def _rows(recipe: Recipe, options: argparse.Namespace) -> list[Row]:
    if recipe.settings:
        if options.checkpoints:
            raise StartError(
                f"recipe {recipe.name} compares ways to pretrain "
                f"({', '.join(recipe.settings)}) and takes no checkpoint; got "
                f"{', '.join(options.checkpoints)}."
            )
        return setting_rows(recipe.settings)
    if not options.checkpoints:
        raise StartError(
            "no checkpoint named; wanted vissl-swav table CHECKPOINT [NAME=CHECKPOINT "
            "...], each a checkpoint of `vissl-swav train` or the folder of its run."
        )
    rows = checkpoint_rows(options.checkpoints)
    if not options.only_checkpoints:
        rows += other_rows(recipe.rows, rows[0], options.seed)
    return rows


def _chosen(recipe: Recipe, columns: str | None) -> Recipe:
    """The recipe with the benchmarks of some columns, and those that they need."""
    if columns is None:
        return recipe
    wanted = {name.strip() for name in columns.split(",") if name.strip()}
    known = {entry.name for entry in recipe.benchmarks if entry.columns}
    known |= {column.name for column in recipe.columns}
    unknown = sorted(wanted - known)
    if unknown or not wanted:
        raise StartError(
            f"--columns names {', '.join(unknown) or 'nothing'}; recipe {recipe.name} "
            f"has {', '.join(sorted(known))}."
        )
    kept = []
    for entry in recipe.benchmarks:
        inside = tuple(c for c in entry.columns if {c.name, entry.name} & wanted)
        kept.append(replace(entry, columns=inside))
    needed = {entry.features for entry in kept if entry.columns}
    benchmarks = [e for e in kept if e.columns or e.name in needed]
    return replace(recipe, benchmarks=tuple(benchmarks))


def _check_free(out: Path) -> None:
    """Refuses a folder of the user's; writes nothing."""
    if out.exists() and not (out / MARKER).exists():
        if not out.is_dir() or any(out.iterdir()):
            raise StartError(
                f"{out} exists and is not a table's folder; name another one (--out)."
            )


def _machine(options: argparse.Namespace) -> Machine:
    import torch

    count = torch.cuda.device_count()
    device = options.device
    if device == "auto":
        device = "gpu" if count else "cpu"
    if device == "gpu" and not count and options.slurm is None:
        raise StartError("--device is gpu, but torch sees none; take --device cpu.")
    processes = options.processes or (max(count, 1) if device == "gpu" else 1)
    if processes < 1 or options.workers < 0:
        raise StartError(
            f"--processes is {processes} and --workers {options.workers}; wanted at "
            "least 1 and 0."
        )
    return Machine(device, processes, options.workers)


def job_of(
    order: Order,
    row: Row,
    entry: Benchmark,
    *,
    features: Job | None = None,
    check_only: bool = False,
) -> Job:
    """The benchmark on this row.

    Raises:
        DataError: the part of the data that it wants cannot be drawn.
        StartError: the recipe names a value that there is not.
    """
    from vissl_swav.suite.table_runs import host_overrides

    if check_only:
        data = order.data[entry.data or ""]
        host_overrides(entry, row, data, order.place.machine, order.place.seed)
        entry = replace(entry, subset=None)
    data = features.data if features is not None else order.data[entry.data or ""]
    return Job(entry, row, data, order.place, features)


def _submit(order: Order, options: argparse.Namespace, console: Console) -> None:
    from vissl_swav.suite import table_slurm

    _claim(order)
    rows = [row.name for row in order.rows]
    with _Display(console, len(rows)) as display, display.line("SLURM") as report:
        table_slurm.run(options, rows, report)


def _claim(order: Order) -> None:
    """Marks the folder as a table's."""
    marker = order.place.out / MARKER
    if not marker.exists():
        write_whole(marker, json.dumps({"recipe": order.recipe.name}))


def run(
    order: Order, console: Console, *, collect: bool = False
) -> tuple[TransferTable, bool]:
    """Runs what has not finished.

    Args:
        order: what to run.
        console: for the progress.
        collect: take what there is, run nothing.

    Returns:
        The table, and whether the user broke it off.
    """
    _claim(order)
    outcomes: dict[str, dict[str, Outcome]] = {row.name: {} for row in order.rows}
    trained = [row for row in order.rows if row.training is not None]
    total = len(order.rows) * len(order.recipe.benchmarks) + len(trained)
    with _Display(console, total) as display, _terminated_as_interrupted():
        try:
            for row in order.rows:
                absent = _absent(order, row, collect)
                asked = replace(order, absent=absent)
                row = ready(row, order.place.out)
                _run_row(asked, row, display, outcomes[row.name])
        except KeyboardInterrupt:
            names = [row.name for row in order.rows]
            return TransferTable(order.recipe, names, outcomes), True
    names = [row.name for row in order.rows]
    return TransferTable(order.recipe, names, outcomes), False


def _absent(order: Order, row: Row, collect: bool) -> tuple[str, str] | None:
    if collect:
        logs = order.place.out / "slurm"
        return "failed", f"its job left no result; the logs of SLURM are in {logs}"
    if order.only not in (None, row.name):
        return "not run", "--row names another"
    return None


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends the run that is under way, too; it leaves a checkpoint."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_row(
    order: Order, row: Row, display: "_Display", outcomes: dict[str, Outcome]
) -> None:
    """Every benchmark on a row; the row's own training first."""
    if row.training is not None:
        trained = _attempt(order, row, row.training, None, display)
        if trained.state != "done":
            for entry in order.recipe.benchmarks:
                outcomes[entry.name] = replace(
                    trained, message=f"its training: {trained.message}"
                )
                display.advance()
            return
        weights = final_checkpoint(trained.folder)
        row = replace(row, weights=weights, identity=f"training {trained.folder.name}")
    jobs: dict[str, Job] = {}
    for entry in order.recipe.benchmarks:
        before = outcomes.get(entry.features or "")
        if before is not None and before.state != "done":
            outcomes[entry.name] = replace(
                before, message=f"its features: {before.message}"
            )
            display.advance()
            continue
        features = jobs.get(entry.features or "")
        outcomes[entry.name] = _attempt(order, row, entry, features, display, jobs)


def _attempt(
    order: Order,
    row: Row,
    entry: Benchmark,
    features: Job | None,
    display: "_Display",
    jobs: dict[str, Job] | None = None,
) -> Outcome:
    """Runs a benchmark; what fails becomes an outcome, and the rest goes on."""
    folder = order.place.out / "rows" / row.folder / entry.name
    if features is None and entry.data not in order.data:
        what = order.recipe.data.get(entry.data or "", "")
        display.advance()
        return Outcome("no data", folder, {}, 0.0, f"--data {entry.data}=PATH: {what}")
    with display.line(f"{row.name}: {entry.name}") as report:
        try:
            job = job_of(order, row, entry, features=features)
            if jobs is not None:
                jobs[entry.name] = job
            folder = job.folder
            if order.absent is not None:
                state, message = order.absent
                return job.finished() or Outcome(state, folder, {}, 0.0, message)
            return job.run(report)
        except DataError as error:
            return Outcome("no data", folder, {}, 0.0, str(error))
        except (stage.StageFailed, StartError, OSError, ValueError) as error:
            return Outcome("failed", folder, {}, 0.0, str(error))


class _Display:
    """A bar over all benchmarks, and one for what is running."""

    def __init__(self, console: Console, total: int):
        columns = (
            TextColumn("{task.description:34}"),
            BarColumn(),
            TextColumn("{task.fields[text]:>24}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(*columns, console=console)
        self._total = total
        self._whole = self._progress.add_task("table", total=total, text=f"0/{total}")
        self._done = 0

    def __enter__(self) -> "_Display":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def advance(self) -> None:
        """One benchmark more is over."""
        self._done += 1
        self._progress.update(
            self._whole, completed=self._done, text=f"{self._done}/{self._total}"
        )

    def line(self, name: str) -> "_Line":
        """A line for one benchmark, gone when it is over."""
        return _Line(self, self._progress, name)


class _Line:
    def __init__(self, display: _Display, progress: Progress, name: str):
        self._display, self._progress, self._name = display, progress, name
        self._task: TaskID | None = None

    def __enter__(self) -> Callable[[int, int, str], None]:
        self._task = self._progress.add_task(self._name, total=None, text="")
        return self._report

    def __exit__(self, *exception: object) -> None:
        assert self._task is not None
        self._progress.remove_task(self._task)
        self._display.advance()

    def _report(self, step: int, total: int, text: str) -> None:
        assert self._task is not None
        text = text or f"{step}/{total}"
        self._progress.update(self._task, completed=step, total=total, text=text)


def failures(table: TransferTable) -> list[tuple[str, str, Outcome]]:
    """Row, benchmark and outcome of what failed."""
    return [item for item in _all(table) if item[2].state == "failed"]


def _all(table: TransferTable) -> Iterator[tuple[str, str, Outcome]]:
    for row in table.rows:
        for name, outcome in table.outcomes.get(row, {}).items():
            yield row, name, outcome


def write(table: TransferTable, order: Order) -> None:
    """`table.{json,md,csv,tex}` and `report.html`, each in one step."""
    from vissl_swav.suite import table_page

    out = order.place.out
    facts = {
        "version": __version__,
        "date": time.strftime("%Y-%m-%d"),
        "seed": order.place.seed,
        "device": order.place.machine.device,
        "data": {name: str(data.train.images) for name, data in order.data.items()},
        "checkpoints": {
            row.name: str(row.weights) for row in order.rows if row.weights is not None
        },
    }
    write_whole(out / MARKER, table_outputs.as_json(table, facts))
    write_whole(out / "table.md", table_outputs.markdown(table))
    write_whole(out / "table.csv", table_outputs.as_csv(table))
    write_whole(out / "table.tex", table_outputs.latex(table))
    write_whole(out / "report.html", table_page.page(table, order, facts))


def show(table: TransferTable, out: Path) -> None:
    """The table in the terminal, and what failed."""
    console = Console(file=sys.stdout)
    if not console.is_terminal:
        console.width = _PLAIN_WIDTH  # A pipe or a file has none of its own.
    console.print(table_outputs.terminal(table))
    for line in table_outputs.above_random(table):
        console.print(f"{line}.", markup=False, soft_wrap=True)
    said: set[str] = set()
    for row, name, outcome in _all(table):
        if outcome.state in ("done", "not run") or outcome.message in said:
            continue
        said.add(outcome.message)
        console.print(
            f"{row}, {name}: {outcome.state}. {outcome.message}",
            markup=False,
            soft_wrap=True,
        )
    console.print(
        f"Report: {out / 'report.html'}; also table.md, table.csv, table.tex",
        markup=False,
        soft_wrap=True,
    )


def _print_plan(order: Order) -> None:
    console = Console(file=sys.stdout)
    for row in order.rows:
        kind = row.weights or ("trained here" if row.training else "random weights")
        console.print(f"{row.name}: {kind}", markup=False, soft_wrap=True)
        for entry in order.recipe.benchmarks:
            there = entry.data is None or entry.data in order.data
            text = f"  {entry.name}: {entry.config or f'on {entry.features}'}"
            console.print(
                text if there else f"{text} (no data)", markup=False, soft_wrap=True
            )
