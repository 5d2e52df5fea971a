"""What each kind of benchmark does and measures, in its job's folder."""

import itertools
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from vissl_swav.suite import recipe_metrics, stage
from vissl_swav.suite.table_runs import accuracies

if TYPE_CHECKING:
    from vissl_swav.suite.table_jobs import Job

WARM_UP = 5
IMAGENET_IMAGES = 1_281_167
Report = stage.Report


class Measured(NamedTuple):
    """What a benchmark gave.

    Attributes:
        figures: by metric.
        notes: what the reader of a figure must know.
    """

    figures: Mapping[str, float]
    notes: Sequence[str] = ()


def measure(job: "Job", report: Report) -> Measured:
    """Does what the benchmark's kind is.

    Args:
        job: what to run, and where.
        report: called with (step, steps, text).

    Raises:
        StageFailed: a run of the host failed.
        DataError: the features cannot be used.
    """
    return _KINDS[job.entry.kind](job, report)


def _extract(job: "Job", report: Report) -> Measured:
    for stale in job.folder.glob("*.npy"):
        stale.unlink()  # Of an extraction that was broken off.
    job.host("Feature extraction", ["engine_name=extract_features"], report)
    return Measured({})


def _train(job: "Job", report: Report) -> Measured:
    job.host(job.entry.name, [], report)
    metrics = job.folder / "metrics.json"
    lines = []
    if metrics.is_file():
        text = metrics.read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines() if line.strip()]
    found = accuracies(lines)
    if not found:
        raise stage.StageFailed(
            f"{job.entry.name} has finished, but {metrics} holds no test accuracy. The "
            "config must test: TEST_MODEL true and an accuracy_list_meter.",
            1,
        )
    return Measured(found)


def _cost(job: "Job", report: Report) -> Measured:
    """Of training steps, the first few left out: they warm up."""
    job.host(job.entry.name, [], report)
    lines = stage.steps(job.folder)
    times = [b["time"] - a["time"] for a, b in itertools.pairwise(lines[WARM_UP:])]
    if not times:
        raise stage.StageFailed(
            f"{job.entry.name} made {len(lines)} steps; wanted more than "
            f"{WARM_UP + 1}, of which the first {WARM_UP} do not count. Give it more "
            "data or epochs.",
            1,
        )
    seconds = statistics.median(times)
    images = lines[-1]["images"]
    figures = (
        seconds,
        images / seconds,
        100 * IMAGENET_IMAGES * seconds / images / 3600,
        max(line["peak_memory"] for line in lines) / 1e9,
    )
    return Measured(dict(zip(recipe_metrics.COST, figures, strict=True)))


def _knn(job: "Job", report: Report) -> Measured:
    from vissl_swav.suite import features as files
    from vissl_swav.suite import knn

    train, test = _feature_sets(job, files.open_stored)
    results = knn.evaluate(
        train,
        test,
        num_neighbors=job.entry.options["k"],
        temperatures=job.entry.options["temperature"],
        device="cuda" if job.place.machine.device == "gpu" else "cpu",
        report=lambda done, total: report(done, total, ""),
    )
    figures = {
        recipe_metrics.knn_metric(result.k, result.temperature, top): value
        for result in results
        for top, value in ((1, result.top1), (5, result.top5))
    }
    fewer = sorted({(r.k, r.used) for r in results if r.used < r.k})
    notes = [
        f"{k} neighbours, but {used} labelled training images: {used} used"
        for k, used in fewer
    ]
    return Measured(figures, notes)


def _svm(job: "Job", report: Report) -> Measured:
    from vissl_swav.suite import features as files
    from vissl_swav.suite import svm

    train, test = _feature_sets(job, files.load)
    options = {key: value for key, value in job.entry.options.items() if value}
    result = svm.evaluate(
        train,
        test,
        seed=job.place.seed,
        jobs=os.cpu_count() or 1,
        report=lambda done, total: report(done, total, ""),
        **options,
    )
    notes = []
    if result.unconverged:
        notes.append(
            f"{result.unconverged} of {result.fits} fits stopped at the largest number "
            "of iterations"
        )
    of_class = zip(result.classes, result.per_class, strict=True)
    empty = [str(number) for number, value in of_class if value is None]
    if empty:
        notes.append(f"no test image of the classes {', '.join(empty)}: left out")
    return Measured({result.metric: result.value}, notes)


def _low_shot_svm(job: "Job", report: Report) -> Measured:
    from vissl_swav.suite import features as files
    from vissl_swav.suite import low_shot_svm

    train, test = _feature_sets(job, files.load)
    names = {"k": "k_values", "samples": "num_samples", "costs": "costs"}
    options = {names[k]: value for k, value in job.entry.options.items() if value}
    results = low_shot_svm.evaluate(
        train,
        test,
        seed=job.place.seed,
        jobs=os.cpu_count() or 1,
        report=lambda done, total: report(done, total, ""),
        **options,
    )
    figures = {recipe_metrics.low_shot_metric(r.k): r.mean for r in results}
    return Measured(figures)


def _feature_sets(job: "Job", read: Callable[..., Any]) -> tuple[Any, Any]:
    assert job.features is not None
    folder, layer = job.features.folder, job.row.trunk.layer
    return read(folder, "train", layer), read(folder, "test", layer)


_KINDS: dict[str, Callable[["Job", Report], Measured]] = {
    "features": _extract,
    "train": _train,
    "cost": _cost,
    "knn": _knn,
    "svm": _svm,
    "low_shot_svm": _low_shot_svm,
}
