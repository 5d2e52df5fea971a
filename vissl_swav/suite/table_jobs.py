"""One benchmark on one row: run once, its figures kept beside its log."""

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vissl_swav.data.errors import DataError
from vissl_swav.suite import stage, table_kinds
from vissl_swav.suite.recipe import Benchmark
from vissl_swav.suite.table_data import DataSet
from vissl_swav.suite.table_rows import Row
from vissl_swav.suite.table_runs import Machine, host_overrides
from vissl_swav.suite.table_subsets import identity_of, take_subset
from vissl_swav.weights.whole_file import whole_file

RESULT = "result.json"
NO_DATA, TOO_FEW = "no data", "too few images"
FINAL = "model_final_checkpoint_phase*.torch"
_PHASE = re.compile(r"phase(\d+)\.torch$")
Report = stage.Report


@dataclass(frozen=True)
class Outcome:
    """What became of a benchmark on a row.

    Attributes:
        state: "done", "failed", `NO_DATA`, `TOO_FEW` or "not run".
        folder: of its files.
        figures: by metric, as measured.
        seconds: that it took.
        message: why there are no figures, or not all of them.
        notes: what the reader of a figure must know.
    """

    state: str
    folder: Path
    figures: Mapping[str, float]
    seconds: float = 0.0
    message: str = ""
    notes: Sequence[str] = ()


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
        self.whole = data
        digest = hashlib.sha256(json.dumps(self._job(), sort_keys=True).encode())
        self.digest = digest.hexdigest()[:8]
        self.folder = place.out / "rows" / row.folder / f"{entry.name}-{self.digest}"

    @cached_property
    def data(self) -> DataSet:
        """The data set, or the part of it that the benchmark takes, drawn when asked.

        Raises:
            TooFewImages: a class has fewer images than the part takes.
        """
        if self.features is not None:
            return self.features.data
        if self.entry.subset is None:
            return self.whole
        return take_subset(self.whole, self.entry.subset, self.place.out / "data")

    @property
    def data_identity(self) -> str:
        """Of `data`; nothing is drawn for it."""
        if self.features is not None:
            return self.features.data_identity
        return identity_of(self.whole, self.entry.subset)

    def _job(self) -> dict[str, Any]:
        """What decides the figures; another job gets another folder."""
        entry = asdict(replace(self.entry, columns=(), protocol=""))
        trunk = self.row.saved
        return {
            "benchmark": json.loads(json.dumps(entry)),
            "weights": self.row.identity,
            "trunk": trunk and [trunk.name, dict(trunk.settings)],
            "overrides": list(self.row.overrides),
            "data": self.data_identity,
            "seed": self.place.seed,
            "features": self.features.digest if self.features else None,
        }

    def finished(self) -> Outcome | None:
        """The kept result, or None."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            text = (self.folder / RESULT).read_text(encoding="utf-8")
            kept = json.loads(text)
            figures = {str(k): float(v) for k, v in kept["figures"].items()}
            seconds, notes = float(kept["seconds"]), map(str, kept.get("notes", ()))
            return Outcome("done", self.folder, figures, seconds, notes=tuple(notes))
        return None

    def forget(self) -> None:
        """What is finished is so no longer."""
        (self.folder / RESULT).unlink(missing_ok=True)

    def run(self, report: Report) -> Outcome:
        """The kept result, or a new one.

        Args:
            report: called with (step, steps, text).

        Raises:
            StageFailed: a run of the host failed.
            StartError: the recipe asks for what there is not.
            DataError: the part of the data cannot be drawn, or features not be used.
        """
        kept = self.finished()
        if kept is not None:
            return kept
        if self.features is not None and not self.features.holds_features():
            self.features.forget()  # Its files were deleted: once more.
            self.features.run(report)
        started = time.perf_counter()
        measured = table_kinds.measure(self, report)
        seconds = round(time.perf_counter() - started, 1)
        content = {
            **{"figures": measured.figures, "notes": list(measured.notes)},
            **{"seconds": seconds, "job": self._job()},
            "device": self.place.machine.device,
            "date": time.strftime("%Y-%m-%d"),
        }
        write_whole(self.folder / RESULT, json.dumps(content, indent=2))
        figures, notes = measured.figures, tuple(measured.notes)
        return Outcome("done", self.folder, figures, seconds, notes=notes)

    def holds_features(self) -> bool:
        """Whether the files of an extraction are all there, of whatever layer."""
        from vissl_swav.suite import features as files

        try:
            for layer in files.layers(self.folder):
                for split in ("train", "test"):
                    files.open_stored(self.folder, split, layer)
        except DataError:
            return False
        return True

    def host(self, name: str, extra: list[str], report: Report) -> None:
        """A run of the host in the job's folder."""
        place, row = self.place, self.row
        lines = host_overrides(self.entry, row, self.data, place.machine, place.seed)
        if row.training not in (None, self.entry) and row.weights is None:
            # Without weights the run would take random ones.
            raise stage.StageFailed(f"{row.name} has no checkpoint any more.", 1)
        stage.run(name, [*lines, *extra], self.folder, report)


def find_final(folder: Path) -> Path | None:
    """The checkpoint that a finished training left, if it is there."""
    found = {
        int(match[1]): path
        for path in folder.glob(FINAL)
        if (match := _PHASE.search(path.name))
    }
    return found[max(found)] if found else None


def final_checkpoint(folder: Path) -> Path:
    """The same.

    Raises:
        StageFailed: there is none.
    """
    found = find_final(folder)
    if found is None:
        raise stage.StageFailed(f"{folder} holds no final checkpoint.", 1)
    return found


def write_whole(path: Path, text: str) -> None:
    """Writes a file in one step: it is never seen half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
