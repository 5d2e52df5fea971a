"""`vissl-swav table`: a recipe's benchmarks on checkpoints, and the table of them."""

import argparse
import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from vissl_swav import __version__
from vissl_swav.data.errors import DataError
from vissl_swav.host.errors import StartError
from vissl_swav.suite import table_outputs
from vissl_swav.suite.table_attempts import run_row
from vissl_swav.suite.table_display import Display
from vissl_swav.suite.table_jobs import Outcome, write_whole
from vissl_swav.suite.table_outputs import TransferTable
from vissl_swav.suite.table_plan import MARKER, Order, hindrance, job_of, plan, standing
from vissl_swav.suite.table_rows import Row, ready
from vissl_swav.train import INSTALL_LINE, have_host

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
        write(table, order)
    except (StartError, DataError, OSError) as error:
        console.print(
            f"vissl-swav table: {error}", style="red", markup=False, soft_wrap=True
        )
        return 2
    show(table, order.place.out)
    if interrupted:
        console.print("Interrupted. The same command goes on where it stopped.")
        return INTERRUPTED
    return 1 if failures(table) else 0


def _submit(order: Order, options: argparse.Namespace, console: Console) -> None:
    from vissl_swav.suite import table_slurm

    _claim(order)
    rows = [row.name for row in order.rows]
    with Display(console, len(rows)) as display, display.line("SLURM") as report:
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
    with Display(console, total) as display, _terminated_as_interrupted():
        try:
            for row in order.rows:
                absent = _absent(order, row, collect)
                asked = replace(order, absent=absent)
                row = ready(row, order.place.out)
                run_row(asked, row, display, outcomes[row.name])
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
    for about, note in table_outputs.notes(table):
        console.print(f"{about}: {note}.", markup=False, soft_wrap=True)
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
    """Each row, its benchmarks, and which of them are finished."""
    console = Console(file=sys.stdout)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    for row in order.rows:
        say(f"{row.name}: {_what(order, row)}")
        states = standing(order, row)
        for entry in order.recipe.benchmarks:
            how = entry.config or f"on {entry.features}"
            say(f"  {entry.name}: {how} ({states[entry.name]})")


def _what(order: Order, row: Row) -> str:
    """Where the row's weights come from."""
    if row.weights is not None:
        return str(row.weights)
    if row.training is not None:
        state = hindrance(order, row.training)
        if state is None:
            done = job_of(order, row, row.training).finished() is not None
            state = "done" if done else "to do"
        return f"trained here ({state})"
    if row.saved is None:
        return "; ".join(row.overrides) or "the config as it is"
    return "random weights"
