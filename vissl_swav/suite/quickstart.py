"""The main job: pretrain, probe the frozen trunk, compare with a random one.

Every stage is a run of the host (`vissl_swav.suite.stage`) in a folder of its own below
the output folder. Stages that have finished are not run again.
"""

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from vissl_swav import __version__
from vissl_swav.data import cifar10, embedded, folders, subsets
from vissl_swav.data.errors import DataError
from vissl_swav.host.errors import StartError
from vissl_swav.suite import features, figures, stage
from vissl_swav.train import INSTALL_LINE, have_host

METHODS = ("swav",)
LAYER = "res5avg"
NUM_NEIGHBORS = 20
# A user's folder is cut to so many images a split, so that minutes stay minutes.
MOST_TRAIN, MOST_TEST = 5000, 2000


@dataclass(frozen=True)
class Job:
    """What decides the result; kept beside it, so that another job is not mixed in."""

    method: str
    data: str
    seed: int
    version: str = __version__


@dataclass(frozen=True)
class Splits:
    """Image folders of the job; classes are their subfolders."""

    train: Path
    test: Path
    num_classes: int
    num_train: int


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
    _claim(out, job)
    started = time.perf_counter()
    columns = (
        TextColumn("{task.description:34}"),
        BarColumn(),
        TextColumn("{task.fields[text]:>24}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        splits = _Stage(progress, "data")(lambda report: _data(out, job, report))
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
        "num_train": splits.num_train,
        "num_classes": splits.num_classes,
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


def _claim(out: Path, job: Job) -> None:
    """Marks the folder as this job's; refuses one that is another's."""
    marker = out / "quickstart.json"
    if marker.exists():
        there = json.loads(marker.read_text(encoding="utf-8"))
        if there != asdict(job):
            raise StartError(
                f"{out} holds another quickstart ({there}); this one is {asdict(job)}. "
                "Name another folder (make quickstart OUT=...), or delete that one."
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise StartError(
            f"{out} exists and is not a quickstart's folder; name another one "
            "(make quickstart OUT=...)."
        )
    out.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(asdict(job), indent=2), encoding="utf-8")


def _data(out: Path, job: Job, report: stage.Report) -> Splits:
    if job.data == "embedded":
        root = embedded.build(
            out / "data",
            seed=job.seed,
            progress=lambda done, total: report(done, total, ""),
        )
    elif job.data == "cifar10":
        root = cifar10.fetch_cifar10(out / "cifar10")
    else:
        root = Path(job.data)
    train, test = folders.find_splits(root)
    if job.data != "embedded":
        train = _cut(train, out / "subset" / "train", MOST_TRAIN, job.seed)
        test = _cut(test, out / "subset" / "test", MOST_TEST, job.seed)
    facts = folders.check_image_folder(train, min_images=1)
    folders.check_image_folder(test, min_images=1)
    return Splits(train, test, len(facts.images_per_class), facts.num_images)


def _cut(source: Path, destination: Path, most: int, seed: int) -> Path:
    """At most `most` images: as many of each class, no more than the rarest has."""
    facts = folders.check_image_folder(source, min_images=1)
    if facts.num_images <= most:
        return source
    if destination.exists():
        return destination
    counts = facts.images_per_class.values()
    scratch = destination.with_name(f".{destination.name}-unfinished")
    shutil.rmtree(scratch, ignore_errors=True)
    subsets.subsample_folder(
        source, scratch, per_class=max(1, min(most // len(counts), *counts)), seed=seed
    )
    return scratch.rename(destination)


def _pretrain(folder: Path, job: Job, splits: Splits, report: stage.Report) -> None:
    if _checkpoint(folder, missing_ok=True) is not None:
        return
    embedded_crops = [f"+config/pretrain/{job.method}/crops=embedded"]
    stage.run(
        "Pretraining",
        [
            f"config=pretrain/{job.method}/quickstart",
            *(embedded_crops if job.data == "embedded" else []),
            f"config.DATA.TRAIN.DATA_PATHS=[{splits.train}]",
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
        f"config.DATA.TRAIN.DATA_PATHS=[{splits.train}]",
        f"config.DATA.TEST.DATA_PATHS=[{splits.test}]",
        f"config.SEED_VALUE={job.seed}",
    ]
    if weights is not None:
        common.append(f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={weights}")
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
                    "config.MODEL.HEAD.PARAMS=[[eval_mlp,{in_channels:128,"
                    f"dims:[128,{splits.num_classes}]}}]]",
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


def _linear_accuracy(folder: Path) -> float:
    """Top-1 in percent after the last epoch, from the host's metrics file."""
    lines = (folder / "metrics.json").read_text(encoding="utf-8").splitlines()
    measured = [json.loads(line) for line in lines if line.strip()]
    last = [m["test_accuracy_list_meter"] for m in measured if _has_test(m)][-1]
    return float(next(iter(last["top_1"].values())))


def _has_test(measured: dict[str, Any]) -> bool:
    return "test_accuracy_list_meter" in measured


def _show(results: dict[str, Any], out: Path, checkpoint: Path | None) -> None:
    table = Table(title=f"Frozen features on {results['job']['data']}")
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
        f"{results['seconds']} s. Checkpoint: {checkpoint}\n"
        f"Config, metrics, logs and curves.png: {out}",
        soft_wrap=True,
        markup=False,
    )
