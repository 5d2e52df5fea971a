"""What a transfer table is to run; all that can be checked before is."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vissl_swav.data.errors import DataError
from vissl_swav.host.errors import StartError
from vissl_swav.host.quoting import quoted
from vissl_swav.suite import table_data, table_slurm
from vissl_swav.suite.recipe import Benchmark, Recipe, load_recipe
from vissl_swav.suite.table_data import DataSet
from vissl_swav.suite.table_jobs import NO_DATA, TOO_FEW, Job, Place
from vissl_swav.suite.table_rows import Row, checkpoint_rows, other_rows, setting_rows
from vissl_swav.suite.table_runs import Machine
from vissl_swav.suite.table_subsets import is_too_small

MARKER = "table.json"
HINDRANCES = (NO_DATA, TOO_FEW)
_LARGEST_SEED = 1_000_000


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
    _check_seed(options.seed)
    if options.slurm is not None:
        table_slurm.check(options.slurm)
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
    for entry in recipe.benchmarks:
        if entry.data in data:
            _check(order, rows[0], entry)
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
        rows += other_rows(recipe.rows, rows, options.seed)
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
    """Refuses a folder of the user's, or one that cannot be made; writes nothing."""
    if out.exists() and not (out / MARKER).exists():
        if not out.is_dir() or any(out.iterdir()):
            raise StartError(
                f"{out} exists and is not a table's folder; name another one (--out)."
            )
    there = next(place for place in (out, *out.absolute().parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise StartError(
            f"{out} cannot be made or written to, since {there} is no folder that you "
            "may write to; name another one (--out)."
        )


def _check_seed(seed: int) -> None:
    """The host multiplies it by the epochs, and numpy takes 32 bits."""
    if not 0 <= seed <= _LARGEST_SEED:
        raise StartError(f"--seed is {seed}; wanted 0 to {_LARGEST_SEED}.")


def _machine(options: argparse.Namespace) -> Machine:
    import torch

    count = torch.cuda.device_count()
    device = options.device
    if device == "auto":
        device = "gpu" if count else "cpu"
    if device == "gpu" and not count and options.slurm is None:
        raise StartError("--device is gpu, but torch sees none; take --device cpu.")
    processes = options.processes
    if processes is None:
        processes = max(count, 1) if device == "gpu" else 1
    if processes < 1 or options.workers < 0:
        raise StartError(
            f"--processes is {processes} and --workers {options.workers}; wanted at "
            "least 1 and 0."
        )
    return Machine(device, processes, options.workers)


def _check(order: Order, row: Row, entry: Benchmark) -> None:
    """Refuses what would fail on every row, after other benchmarks have run.

    Raises:
        StartError: a `$name` that stands for nothing, or labels of another kind.
    """
    from vissl_swav.suite.table_runs import host_overrides

    data = order.data[entry.data or ""]
    host_overrides(entry, row, data, order.place.machine, order.place.seed)
    several = data.fewest is None
    if several and entry.subset is not None:
        raise StartError(
            f"{entry.name} takes a part of {data.name} by class; wanted one label an "
            f"image, and {data.train.labels} holds several."
        )
    for other in order.recipe.benchmarks:
        if other.features == entry.name:
            _check_metrics(other, several=several)


def _check_metrics(entry: Benchmark, *, several: bool) -> None:
    """What labels decide: accuracy is of one class an image, mean_ap of several."""
    if entry.kind == "knn" and several:
        raise StartError(
            f"{entry.name} is k-NN, which wants one label an image; its data has "
            "several. Take kind svm."
        )
    given = "mean_ap" if several else "accuracy"
    for column in entry.columns:
        if entry.kind == "svm" and column.metric != given:
            raise StartError(
                f"{entry.name} gives {given}, since its data has "
                f"{'several labels' if several else 'one label'} an image; the metric "
                f"of column {column.name} is {column.metric}."
            )


def job_of(
    order: Order, row: Row, entry: Benchmark, *, features: Job | None = None
) -> Job:
    """The benchmark on this row; nothing is drawn or run yet."""
    data = order.data[entry.data or ""] if features is None else features.whole
    return Job(entry, row, data, order.place, features)


def identified(order: Order, row: Row) -> Row:
    """The row, known by its training where it is trained here; its weights are not."""
    if row.training is None or row.training.data not in order.data:
        return row
    training = job_of(order, row, row.training)
    return replace(row, identity=f"training {training.folder.name}")


def standing(order: Order, row: Row) -> dict[str, str]:
    """The state of each benchmark on a row as it is now: what would run is "to do"."""
    training = None if row.training is None else hindrance(order, row.training)
    if training is not None:
        return dict.fromkeys((e.name for e in order.recipe.benchmarks), training)
    row = identified(order, row)
    jobs: dict[str, Job] = {}
    found: dict[str, str] = {}
    for entry in order.recipe.benchmarks:
        # What stands on features shares their hindrance.
        before = found.get(entry.features) if entry.features else None
        state = before if before in HINDRANCES else hindrance(order, entry)
        if state is None:
            job = job_of(order, row, entry, features=jobs.get(entry.features or ""))
            jobs[entry.name] = job
            state = "done" if job.finished() else "to do"
        found[entry.name] = state
    return found


def hindrance(order: Order, entry: Benchmark) -> str | None:
    """Why the data does not do for a benchmark, in the words of its cell, or None."""
    if entry.features is not None:
        return None
    data = order.data.get(entry.data or "")
    if data is None:
        return NO_DATA
    return TOO_FEW if is_too_small(data, entry.subset) else None
