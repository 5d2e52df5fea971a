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
from typing import Any, NamedTuple

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from vissl_swav import __version__
from vissl_swav.data import cifar10, embedded, folders, subsets
from vissl_swav.data.errors import DataError
from vissl_swav.host import settings
from vissl_swav.host.config_keys import find_yaml
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


class Splits(NamedTuple):
    """Image folders of the job, both with the same classes."""

    train: folders.ImageFolderReport
    test: folders.ImageFolderReport


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
    _check_free(out, job)
    for path in (out, job.data):
        stage.quoted(path)  # Raises what would stop the first run of the host.
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


def _marker(out: Path) -> Path:
    return out / "quickstart.json"


def _check_free(out: Path, job: Job) -> None:
    """Refuses a folder of another job or of the user's; writes nothing."""
    if _marker(out).exists():
        there = json.loads(_marker(out).read_text(encoding="utf-8"))
        if there != asdict(job):
            raise StartError(
                f"{out} holds another quickstart ({there}); this one is {asdict(job)}. "
                "Name another folder (make quickstart OUT=...), or delete that one."
            )
    elif out.exists() and not (out.is_dir() and all(map(_is_data, out.iterdir()))):
        raise StartError(
            f"{out} exists and is not a quickstart's folder; name another one "
            "(make quickstart OUT=...)."
        )


def _is_data(entry: Path) -> bool:
    """What there may be before the marker: data, whole or broken off, and CIFAR-10."""
    if entry.name == "data":
        return (entry / embedded.MANIFEST).is_file()
    return entry.name == "cifar10" or entry.name.startswith((".data-", ".cifar10-"))


def _claim(out: Path, job: Job) -> None:
    """Marks the folder as this job's."""
    _check_free(out, job)  # Again: finding the data took its time.
    out.mkdir(parents=True, exist_ok=True)
    if not _marker(out).exists():
        _marker(out).write_text(json.dumps(asdict(job), indent=2), encoding="utf-8")


def _data(out: Path, job: Job, report: stage.Report) -> Splits:
    """Finds and checks the data; with it there, the folder becomes this job's."""
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
    found = folders.find_splits(root)
    batch = _batch(f"pretrain/{job.method}/quickstart")
    train = folders.check_image_folder(found.train, min_images=batch)
    test = folders.check_image_folder(found.test, min_images=1)
    folders.check_same_classes(train, test)
    _claim(out, job)
    if job.data == "embedded":
        return Splits(train, test)
    return Splits(
        _cut(train, out / "subset" / "train", MOST_TRAIN, job.seed),
        _cut(test, out / "subset" / "test", MOST_TEST, job.seed),
    )


def _cut(
    whole: folders.ImageFolderReport, destination: Path, most: int, seed: int
) -> folders.ImageFolderReport:
    """At most `most` images: of each class an equal share, or the fewer it has."""
    if whole.num_images <= most:
        return whole
    if not destination.exists():
        scratch = destination.with_name(f".{destination.name}-unfinished")
        shutil.rmtree(scratch, ignore_errors=True)
        share = max(1, most // len(whole.images_per_class))
        subsets.subsample_folder(
            whole.path, scratch, per_class=share, seed=seed, allow_fewer=True
        )
        scratch.rename(destination)
    return folders.check_image_folder(destination, min_images=1)


def _batch(config: str) -> int:
    """Images in a training step of one of our configs, all of one process."""
    group, _, name = f"config/{config}".rpartition("/")
    file = find_yaml(group, name)
    assert file is not None
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    return settings.batch_of_one_process(tree["config"])


def _pretrain(folder: Path, job: Job, splits: Splits, report: stage.Report) -> None:
    if _checkpoint(folder, missing_ok=True) is not None:
        return
    embedded_crops = [f"+config/pretrain/{job.method}/crops=embedded"]
    stage.run(
        "Pretraining",
        [
            f"config=pretrain/{job.method}/quickstart",
            *(embedded_crops if job.data == "embedded" else []),
            f"config.DATA.TRAIN.DATA_PATHS=[{stage.quoted(splits.train.path)}]",
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
        f"config.DATA.TRAIN.DATA_PATHS=[{stage.quoted(splits.train.path)}]",
        f"config.DATA.TEST.DATA_PATHS=[{stage.quoted(splits.test.path)}]",
        f"config.DATA.TRAIN.BATCHSIZE_PER_REPLICA={_evaluation_batch(splits.train)}",
        f"config.SEED_VALUE={job.seed}",
    ]
    if weights is not None:
        common.append(f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={stage.quoted(weights)}")
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
    batch = min(_batch("benchmark/small_images"), train.num_images)
    # The probe's batch norm refuses a last batch of one image.
    return batch - 1 if train.num_images % batch == 1 else batch


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
