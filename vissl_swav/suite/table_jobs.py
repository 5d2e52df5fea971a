"""One benchmark on one row: run once, its figures kept beside its log."""

import contextlib
import hashlib
import itertools
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vissl_swav.suite import stage
from vissl_swav.suite.recipe import Benchmark
from vissl_swav.suite.table_data import DataSet, take_subset
from vissl_swav.suite.table_rows import Row
from vissl_swav.suite.table_runs import Machine, accuracies, host_overrides
from vissl_swav.weights.whole_file import whole_file

RESULT = "result.json"
WARM_UP = 5
FINAL = "model_final_checkpoint_phase*.torch"
_PHASE = re.compile(r"phase(\d+)\.torch$")
IMAGENET_IMAGES = 1_281_167
Report = stage.Report


@dataclass(frozen=True)
class Outcome:
    """What became of a benchmark on a row.

    Attributes:
        state: "done", "failed" or "no data".
        folder: of its files.
        figures: by metric, as measured.
        seconds: that it took.
        message: why there are no figures.
    """

    state: str
    folder: Path
    figures: Mapping[str, float]
    seconds: float = 0.0
    message: str = ""


@dataclass(frozen=True)
class Place:
    """Where a table's runs and parts of data sets lie.

    Attributes:
        out: the table's folder.
        machine: where runs run.
        seed: of every run.
    """

    out: Path
    machine: Machine
    seed: int


class Job:
    """A benchmark on a row; `run` does nothing where it is finished."""

    def __init__(
        self,
        entry: Benchmark,
        row: Row,
        data: DataSet,
        place: Place,
        features: "Job | None" = None,
    ):
        self.entry, self.row, self.place = entry, row, place
        self.features = features
        if entry.subset is not None:
            data = take_subset(data, entry.subset, place.out / "data")
        self.data = data
        digest = hashlib.sha256(json.dumps(self._job(), sort_keys=True).encode())
        self.digest = digest.hexdigest()[:8]
        self.folder = place.out / "rows" / row.folder / f"{entry.name}-{self.digest}"

    def _job(self) -> dict[str, Any]:
        """What decides the figures; another job gets another folder."""
        entry = asdict(replace(self.entry, columns=(), protocol=""))
        trunk = self.row.saved
        return {
            "benchmark": json.loads(json.dumps(entry)),
            "weights": self.row.identity,
            "trunk": trunk and [trunk.name, dict(trunk.settings)],
            "overrides": list(self.row.overrides),
            "data": self.data.identity,
            "seed": self.place.seed,
            "features": self.features.digest if self.features else None,
        }

    def finished(self) -> Outcome | None:
        """The kept result, or None."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            text = (self.folder / RESULT).read_text(encoding="utf-8")
            kept = json.loads(text)
            figures = {str(k): float(v) for k, v in kept["figures"].items()}
            return Outcome("done", self.folder, figures, float(kept["seconds"]))
        return None

    def run(self, report: Report) -> Outcome:
        """The kept result, or a new one.

        Args:
            report: called with (step, steps, text).

        Raises:
            StageFailed: a run of the host failed.
            StartError: the recipe asks for what there is not.
        """
        kept = self.finished()
        if kept is not None:
            return kept
        started = time.perf_counter()
        figures = _KINDS[self.entry.kind](self, report)
        seconds = round(time.perf_counter() - started, 1)
        content = {
            **{"figures": figures, "seconds": seconds, "job": self._job()},
            "device": self.place.machine.device,
            "date": time.strftime("%Y-%m-%d"),
        }
        write_whole(self.folder / RESULT, json.dumps(content, indent=2))
        return Outcome("done", self.folder, figures, seconds)

    def host(self, name: str, extra: list[str], report: Report) -> None:
        """A run of the host in the job's folder."""
        place = self.place
        lines = host_overrides(
            self.entry, self.row, self.data, place.machine, place.seed
        )
        stage.run(name, [*lines, *extra], self.folder, report)


def final_checkpoint(folder: Path) -> Path:
    """The checkpoint that a finished training left.

    Raises:
        StageFailed: there is none.
    """
    found = {
        int(match[1]): path
        for path in folder.glob(FINAL)
        if (match := _PHASE.search(path.name))
    }
    if not found:
        raise stage.StageFailed(f"{folder} holds no final checkpoint.", 1)
    return found[max(found)]


def write_whole(path: Path, text: str) -> None:
    """Writes a file in one step: it is never seen half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def _extract(job: Job, report: Report) -> dict[str, float]:
    for stale in job.folder.glob("*.npy"):
        stale.unlink()  # Of an extraction that was broken off.
    job.host("Feature extraction", ["engine_name=extract_features"], report)
    return {}


def _train(job: Job, report: Report) -> dict[str, float]:
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
    return found


def _cost(job: Job, report: Report) -> dict[str, float]:
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
    return {
        "seconds_per_step": seconds,
        "images_per_second": images / seconds,
        "hours_100_epochs": 100 * IMAGENET_IMAGES * seconds / images / 3600,
        "peak_gb": max(line["peak_memory"] for line in lines) / 1e9,
    }


def _knn(job: Job, report: Report) -> dict[str, float]:
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
    found = {}
    for result in results:
        stem = f"k{result.k}_t{result.temperature:g}"
        found |= {f"{stem}_top1": result.top1, f"{stem}_top5": result.top5}
    return found


def _svm(job: Job, report: Report) -> dict[str, float]:
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
    return {result.metric: result.value}


def _low_shot_svm(job: Job, report: Report) -> dict[str, float]:
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
    return {f"k{result.k}": result.mean for result in results}


def _feature_sets(job: Job, read: Callable[..., Any]) -> tuple[Any, Any]:
    assert job.features is not None
    folder, layer = job.features.folder, job.row.trunk.layer
    return read(folder, "train", layer), read(folder, "test", layer)


_KINDS: dict[str, Callable[[Job, Report], dict[str, float]]] = {
    "features": _extract,
    "train": _train,
    "cost": _cost,
    "knn": _knn,
    "svm": _svm,
    "low_shot_svm": _low_shot_svm,
}
