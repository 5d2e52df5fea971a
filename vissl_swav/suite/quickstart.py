"""The main job: pretrain, probe the frozen trunk, compare with a random one.

Every stage is a run of the host (`vissl_swav.suite.stage`) in a folder of its own below
the output folder. Stages that have finished are not run again.
"""

import argparse
import json
import shlex
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from vissl_swav.data.errors import DataError
from vissl_swav.host import settings
from vissl_swav.host.errors import StartError
from vissl_swav.host.quoting import quoted
from vissl_swav.suite import figures, stage, table
from vissl_swav.suite.job import Job, Splits, check_free, find_data
from vissl_swav.suite.recipe import load_recipe
from vissl_swav.suite.table_data import data_set
from vissl_swav.suite.table_jobs import FINAL, Place, final_checkpoint
from vissl_swav.suite.table_outputs import TransferTable
from vissl_swav.suite.table_plan import Order
from vissl_swav.suite.table_rows import checkpoint_rows, other_rows
from vissl_swav.suite.table_runs import Machine
from vissl_swav.train import INSTALL_LINE, have_host

METHODS = tuple(settings.LOSSES)


def main(options: argparse.Namespace) -> int:
    """Runs the job; returns the exit code."""
    console = Console(stderr=True)
    if not have_host():
        console.print(INSTALL_LINE)
        return 2
    try:
        run(
            Path(options.out),
            Job(options.method, options.data or "embedded", options.seed),
        )
    except (StartError, DataError) as error:
        console.print(
            f"vissl-swav quickstart: {error}", style="red", markup=False, soft_wrap=True
        )
        return 2
    except stage.StageFailed as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return error.exit_code
    return 0


def run(out: Path, job: Job) -> dict[str, Any]:
    """Runs every stage that has not finished, then prints the table.

    Args:
        out: folder for the runs, the table and the picture.
        job: method, data and seed.

    Returns:
        What `results.json` holds: accuracies in percent, times in seconds.

    Raises:
        StartError: an unknown method, or `out` belongs to another job.
        DataError: the data cannot be used.
        StageFailed: a run of the host failed.
    """
    if job.method not in METHODS:
        raise StartError(f"METHOD is {job.method}; wanted one of {list(METHODS)}.")
    check_free(out, job)
    for path in (out, job.data):
        quoted(path)  # Raises what would stop the first run of the host.
    started = time.perf_counter()
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:34}"),
        BarColumn(),
        TextColumn("{task.fields[text]:>24}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        splits = _Stage(progress, "data")(lambda report: find_data(out, job, report))
        pretrained = out / "pretrain"
        _Stage(progress, f"pretrain ({job.method})")(
            lambda report: _pretrain(pretrained, job, splits, report)
        )
    order = _order(out, job, splits, pretrained)
    found, interrupted = table.run(order, console)
    table.write(found, order)
    if interrupted:
        raise KeyboardInterrupt
    failed = table.failures(found)
    if failed:
        row, name, outcome = failed[0]
        raise stage.StageFailed(f"{row}, {name}: {outcome.message}", 1)
    curve = stage.steps(pretrained)
    results = {
        "job": asdict(job),
        "num_train": splits.train.num_images,
        "num_test": splits.test.num_images,
        "num_classes": len(splits.train.images_per_class),
        "rows": {row: _figures(found, row) for row in found.rows},
        "final_loss": curve[-1]["loss"] if curve else None,
        "seconds": round(time.perf_counter() - started, 1),
    }
    (out / "results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    figures.loss_curve(out / "curves.png", curve, pretrained / "train_config.yaml")
    _show(found, results, out)
    return results


def _order(out: Path, job: Job, splits: Splits, pretrained: Path) -> Order:
    """The table's benchmarks on the checkpoint and on a random trunk."""
    rows = checkpoint_rows([f"{job.method}={pretrained}"])
    recipe = load_recipe("quickstart")
    return Order(
        recipe,
        rows + other_rows(recipe.rows, rows, job.seed),
        {"main": data_set("main", splits.train, splits.test)},
        Place(out / "table", Machine("cpu", 1, 0), job.seed),
    )


def _figures(found: TransferTable, row: str) -> dict[str, float]:
    """By column, in per cent."""
    columns = found.recipe.columns
    values = {column.name: found.figure(row, column) for column in columns}
    return {name: round(v, 2) for name, v in values.items() if v is not None}


class _Stage:
    """A line of the progress display."""

    def __init__(self, progress: Progress, name: str):
        self._progress = progress
        self._task = progress.add_task(name, total=None, text="")

    def __call__(self, work: Any) -> Any:
        result = work(self._report)
        task = self._progress.tasks[self._task]
        total = task.total or 1
        self._progress.update(self._task, total=total, completed=total)
        return result

    def _report(self, step: int, total: int, text: str) -> None:
        text = text or f"{step}/{total}"
        self._progress.update(self._task, completed=step, total=total, text=text)


def _pretrain(folder: Path, job: Job, splits: Splits, report: stage.Report) -> None:
    if list(folder.glob(FINAL)):
        return
    embedded_crops = ["+config/pretrain/swav/crops=embedded"]
    stage.run(
        "Pretraining",
        [
            f"config=pretrain/{job.method}/quickstart",
            *(embedded_crops if job.data == "embedded" else []),
            f"config.DATA.TRAIN.DATA_PATHS=[{quoted(splits.train.path)}]",
            f"config.SEED_VALUE={job.seed}",
        ],
        folder,
        report,
    )


def _show(found: TransferTable, results: dict[str, Any], out: Path) -> None:
    table.show(found, out / "table")
    chance = 100.0 / results["num_classes"]
    checkpoint = final_checkpoint(out / "pretrain")
    Console(file=sys.stdout).print(
        f"Chance is {chance:.1f} %. {results['num_train']} training and "
        f"{results['num_test']} test images of {results['job']['data']}, "
        f"{results['seconds']} s. Checkpoint: {checkpoint}\n"
        f"Config, metrics, logs and curves.png: {out}\n"
        "All benchmarks, with a supervised row: vissl-swav table "
        f"{shlex.quote(str(out / 'pretrain'))} --out {shlex.quote(str(out / 'all'))} "
        f"--data main={shlex.quote(_data_root(results, out))}",
        soft_wrap=True,
        markup=False,
    )


def _data_root(results: dict[str, Any], out: Path) -> str:
    """The folder with the splits that the run used."""
    below = {"embedded": out / "data"}.get(results["job"]["data"], out / "subset")
    return str(below if below.is_dir() else results["job"]["data"])
