"""The main job: pretrain, probe the frozen trunk, compare with a random one.

Every stage is a run of the host (`vissl_swav.suite.stage`) in a folder of its own below
the output folder. Stages that have finished are not run again.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from vissl_swav.data import folders
from vissl_swav.data.errors import DataError
from vissl_swav.host import settings
from vissl_swav.host.errors import StartError
from vissl_swav.host.quoting import quoted
from vissl_swav.suite import features, figures, stage
from vissl_swav.suite.job import Job, Splits, batch_of, check_free, epochs_of, find_data
from vissl_swav.train import INSTALL_LINE, have_host

METHODS = tuple(settings.LOSSES)
LAYER = "res5avg"
NUM_NEIGHBORS = 20
LEAST_PROBE_STEPS = 120


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
    columns = (
        TextColumn("{task.description:34}"),
        BarColumn(),
        TextColumn("{task.fields[text]:>24}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        splits = _Stage(progress, "data")(lambda report: find_data(out, job, report))
        pretrained = out / "pretrain"
        _Stage(progress, f"pretrain ({job.method})")(
            lambda report: _pretrain(pretrained, job, splits, report)
        )
        checkpoint = _checkpoint(pretrained)
        rows = {
            trunk: _evaluate(progress, out / trunk, trunk, weights, job, splits)
            for trunk, weights in ((job.method, checkpoint), ("random trunk", None))
        }
    curve = stage.steps(pretrained)
    results = {
        "job": asdict(job),
        "num_train": splits.train.num_images,
        "num_test": splits.test.num_images,
        "num_classes": len(splits.train.images_per_class),
        "rows": rows,
        "final_loss": curve[-1]["loss"] if curve else None,
        "seconds": round(time.perf_counter() - started, 1),
    }
    (out / "results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    figures.loss_curve(out / "curves.png", curve, pretrained / "train_config.yaml")
    _show(results, out, checkpoint)
    return results


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
    if _checkpoint(folder, missing_ok=True) is not None:
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


def _checkpoint(folder: Path, *, missing_ok: bool = False) -> Path | None:
    found = sorted(folder.glob("model_final_checkpoint_phase*.torch"))
    if not found and not missing_ok:
        raise stage.StageFailed(f"{folder} holds no final checkpoint.", 1)
    return found[-1] if found else None


def _evaluate(
    progress: Progress,
    folder: Path,
    trunk: str,
    weights: Path | None,
    job: Job,
    splits: Splits,
) -> dict[str, float]:
    """k-NN and linear accuracy in percent of one frozen trunk."""
    common = [
        f"config.DATA.TRAIN.DATA_PATHS=[{quoted(splits.train.path)}]",
        f"config.DATA.TEST.DATA_PATHS=[{quoted(splits.test.path)}]",
        f"config.DATA.TRAIN.BATCHSIZE_PER_REPLICA={_evaluation_batch(splits.train)}",
        f"config.SEED_VALUE={job.seed}",
    ]
    if weights is not None:
        common.append(f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={quoted(weights)}")
    knn, linear = folder / "features", folder / "linear"
    _Stage(progress, f"k-NN ({trunk})")(
        lambda _: (
            None
            if list(knn.glob(f"*_test_{LAYER}_features.npy"))
            else stage.run(
                "Feature extraction",
                [
                    "config=benchmark/knn/small_images",
                    "engine_name=extract_features",
                    *common,
                ],
                knn,
            )
        )
    )
    accuracy = features.knn_accuracy(knn, LAYER, num_neighbors=(NUM_NEIGHBORS,))
    _Stage(progress, f"linear probe ({trunk})")(
        lambda report: (
            None
            if _checkpoint(linear, missing_ok=True)
            else stage.run(
                "Linear probe",
                [
                    "config=benchmark/linear/small_images",
                    f"config.OPTIMIZER.num_epochs={_probe_epochs(splits.train)}",
                    "config.MODEL.HEAD.PARAMS=[[eval_mlp,{in_channels:128,"
                    f"dims:[128,{len(splits.train.images_per_class)}]}}]]",
                    *common,
                ],
                linear,
                report,
            )
        )
    )
    return {
        f"knn_{NUM_NEIGHBORS}": round(accuracy[NUM_NEIGHBORS], 2),
        "linear": round(_linear_accuracy(linear), 2),
    }


def _evaluation_batch(train: folders.ImageFolderReport) -> int:
    """The configs' batch, smaller where the folder is, and never one image over."""
    batch = min(batch_of("benchmark/small_images"), train.num_images)
    # The probe's batch norm refuses a last batch of one image.
    return batch - 1 if train.num_images % batch == 1 else batch


def _probe_epochs(train: folders.ImageFolderReport) -> int:
    """The config's epochs, more where few images make few steps.

    The probe's batch norm needs a hundred steps until its statistics are settled.
    """
    steps_per_epoch = -(-train.num_images // _evaluation_batch(train))
    least = -(-LEAST_PROBE_STEPS // steps_per_epoch)
    return max(epochs_of("benchmark/linear/small_images"), least)


def _linear_accuracy(folder: Path) -> float:
    """Top-1 in percent after the last epoch, from the host's metrics file."""
    lines = (folder / "metrics.json").read_text(encoding="utf-8").splitlines()
    measured = [json.loads(line) for line in lines if line.strip()]
    last = [m["test_accuracy_list_meter"] for m in measured if _has_test(m)][-1]
    return float(next(iter(last["top_1"].values())))


def _has_test(measured: dict[str, Any]) -> bool:
    return "test_accuracy_list_meter" in measured


def _show(results: dict[str, Any], out: Path, checkpoint: Path | None) -> None:
    # As Text: a path may hold what rich takes for markup.
    table = Table(title=Text(f"Frozen features on {results['job']['data']}"))
    table.add_column("trunk")
    table.add_column(f"k-NN (k={NUM_NEIGHBORS}), %", justify="right")
    table.add_column("linear probe, %", justify="right")
    for name, row in results["rows"].items():
        table.add_row(
            name, f"{row[f'knn_{NUM_NEIGHBORS}']:.1f}", f"{row['linear']:.1f}"
        )
    chance = 100.0 / results["num_classes"]
    table.add_row("chance", f"{chance:.1f}", f"{chance:.1f}")
    console = Console(file=sys.stdout)
    console.print(table)
    console.print(
        f"{results['num_train']} training and {results['num_test']} test images, "
        f"{results['seconds']} s. Checkpoint: {checkpoint}\n"
        f"Config, metrics, logs and curves.png: {out}",
        soft_wrap=True,
        markup=False,
    )
