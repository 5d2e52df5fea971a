"""What lies in the folder of a run, finished, under way or broken off.

Everything may be missing, cut short or nonsense: a line that cannot be read is left
out, and counted.
"""

import json
import math
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vissl_swav.data.errors import DataError

CONFIG, STEPS, HEALTH, LOG = (
    "train_config.yaml",
    "steps.jsonl",
    "health.jsonl",
    "log.txt",
)
_WITHOUT = {
    CONFIG: "no summary, no plan",
    STEPS: "no loss curve by step, no learning rate, no restarts",
    HEALTH: "no figures and no verdicts: the loss is none of ours, or "
    "config.HEALTH.ENABLED is false, or nothing was logged yet",
    LOG: "no warnings",
}
_FINAL = "model_final_checkpoint_phase*.torch"
_LOG_LINE = re.compile(r"^(\w+) (\S+ [\d:]+),\d+ \S+\s*\d+: (.*)$")
_OURS, _RESUMED = "vissl_swav", "Resuming from "
_SERIOUS = ("WARNING", "ERROR")
_MOST_TOLD, _LONGEST = 40, 1000
_LEAST_PAUSE, _PAUSE_STEPS = 60.0, 30
_MAX_CONFIG = 4 * 2**20

Json = dict[str, Any]


@dataclass(frozen=True)
class Restart:
    """A place where a run was taken up again.

    Attributes:
        step: the first step after it.
        seconds: since the step written before.
        repeated: steps done before and done again.
    """

    step: int
    seconds: float
    repeated: int


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file: name, bytes, and time of the last change."""

    name: str
    size: int
    time: float


@dataclass(frozen=True)
class RunFolder:
    """What was found.

    Attributes:
        path: of the folder.
        config: the tree of `train_config.yaml`; None without it.
        steps: lines of `steps.jsonl`, the last one of each step, in order.
        restarts: in order.
        readings: lines of `health.jsonl` with figures, likewise.
        distinct: its lines on distinct prototypes, likewise.
        verdicts: its verdicts, as they fell.
        told: (time, message) of warnings, resumes and errors in the log, each once.
        unreadable: (split, name, reason) of images.
        nonfinite: names of the files that show a step which was not finite.
        checkpoints: oldest first.
        final: the one at the end of the run; None without it.
        older_configs: names of configs that the run had before.
        missing: (file, what is not shown without it).
        bad_lines: file name -> lines that could not be read.
    """

    path: Path
    config: Json | None = None
    steps: list[Json] = field(default_factory=list)
    restarts: list[Restart] = field(default_factory=list)
    readings: list[Json] = field(default_factory=list)
    distinct: list[Json] = field(default_factory=list)
    verdicts: list[Json] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    unreadable: list[tuple[str, str, str]] = field(default_factory=list)
    nonfinite: list[str] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    final: Checkpoint | None = None
    older_configs: list[str] = field(default_factory=list)
    missing: list[tuple[str, str]] = field(default_factory=list)
    bad_lines: dict[str, int] = field(default_factory=dict)


def read_run(folder: Path) -> RunFolder:
    """Reads all there is.

    Raises:
        DataError: no folder, or one without a file of a run.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DataError(
            f"{folder} {what}; wanted the folder of a run, its config.CHECKPOINT.DIR."
        )
    missing = [(n, why) for n, why in _WITHOUT.items() if not (folder / n).is_file()]
    checkpoints = _checkpoints(folder)
    if len(missing) == len(_WITHOUT) and not checkpoints:
        raise DataError(
            f"{folder} holds none of {', '.join(_WITHOUT)} and no checkpoint; wanted "
            "the folder of a run, its config.CHECKPOINT.DIR."
        )
    bad: dict[str, int] = {}
    config = _config(folder / CONFIG, bad)
    steps = list(_lines(folder / STEPS, ("step", "loss"), bad))
    health = list(_lines(folder / HEALTH, ("step",), bad))
    final = [c for c in checkpoints if Path(c.name).match(_FINAL)]
    return RunFolder(
        path=folder,
        config=config,
        steps=_by_step(steps),
        restarts=restarts(steps),
        readings=_by_step([line for line in health if "loss" in line]),
        distinct=_by_step([line for line in health if "distinct_prototypes" in line]),
        verdicts=[line for line in health if isinstance(line.get("verdict"), str)],
        told=_told(folder / LOG),
        unreadable=_unreadable(folder, bad),
        nonfinite=sorted(p.name for p in folder.glob("nonfinite_*.pt")),
        checkpoints=checkpoints,
        final=final[-1] if final else None,
        older_configs=sorted(p.name for p in folder.glob("train_config.*.yaml")),
        missing=missing,
        bad_lines=bad,
    )


def restarts(steps: list[Json]) -> list[Restart]:
    """Where the steps, as written, go back, or pause far longer than a step takes."""
    times = [float(line.get("time", math.nan)) for line in steps]
    pauses = [b - a for a, b in zip(times, times[1:], strict=False)]
    usual = statistics.median([p for p in pauses if p >= 0] or [0.0])
    longest = max(_LEAST_PAUSE, _PAUSE_STEPS * usual)
    found: list[Restart] = []
    for before, line, pause in zip(steps, steps[1:], pauses, strict=False):
        back = before["step"] + 1 - line["step"]
        if back > 0 or pause > longest:
            found.append(Restart(line["step"], pause, max(0, back)))
    return found


def _lines(path: Path, wanted: tuple[str, ...], bad: dict[str, int]) -> Iterator[Json]:
    """Objects with numbers under `wanted`, line by line."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                line = None
            if isinstance(line, dict) and all(_is_number(line.get(k)) for k in wanted):
                yield line
            elif text.strip():
                bad[path.name] = bad.get(path.name, 0) + 1


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _by_step(lines: list[Json]) -> list[Json]:
    by_step = {line["step"]: line for line in lines}
    return [by_step[step] for step in sorted(by_step)]


def _config(path: Path, bad: dict[str, int]) -> Json | None:
    if not path.is_file():
        return None
    try:
        text = path.read_bytes()[: _MAX_CONFIG + 1]
        tree = yaml.safe_load(text) if len(text) <= _MAX_CONFIG else None
    except (yaml.YAMLError, ValueError, RecursionError):
        tree = None
    if not isinstance(tree, dict):
        bad[path.name] = 1
        return None
    return tree


def _told(path: Path) -> list[tuple[str, str]]:
    """Our warnings, resumes, and the errors of tracebacks: each once, the latest."""
    found: dict[str, str] = {}
    time, in_traceback = "", False
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as file:
            for text in file:
                match = _LOG_LINE.match(text)
                if match is not None:
                    level, time, message = match.groups()
                    serious = level in _SERIOUS and message.startswith(_OURS)
                    if serious or message.startswith(_RESUMED):
                        found.setdefault(message, time)
                elif text.startswith("Traceback "):
                    in_traceback = True
                elif in_traceback and text.strip() and not text.startswith(" "):
                    in_traceback = False
                    found.setdefault(f"ended by {text.strip()}"[:_LONGEST], time)
    return [(time, message) for message, time in found.items()][-_MOST_TOLD:]


def _unreadable(folder: Path, bad: dict[str, int]) -> list[tuple[str, str, str]]:
    """Every image once, whichever rank came upon it."""
    found: dict[tuple[str, str], str] = {}
    for path in sorted(folder.glob("unreadable.*.jsonl")):
        split = path.name.split(".")[1]
        for line in _lines(path, (), bad):
            name = str(line.get("name", "?"))
            found.setdefault((split, name), str(line.get("reason", "?")))
    return [(split, name, reason) for (split, name), reason in found.items()]


def _checkpoints(folder: Path) -> list[Checkpoint]:
    found: list[Checkpoint] = []
    for path in folder.glob("model_*.torch"):
        try:
            status = path.stat()
        except OSError:
            continue  # Gone since: a run under way tidies up.
        found.append(Checkpoint(path.name, status.st_size, status.st_mtime))
    return sorted(found, key=lambda c: c.time)
