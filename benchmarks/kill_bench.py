"""Kills training runs at random moments, restarts them, and counts what was lost.

    python benchmarks/kill_bench.py --kills 20 [--methods swav deepcluster_v2]
        [--ranks 1 2] [--signal KILL|TERM] [--seed 0] [--out FOLDER]

For each method and number of ranks one run goes through without interruption. A second
one is killed, its whole process group at once, and started again, until it has had its
share of the kills; then it runs to its end. Moments are drawn uniformly: for every
other kill from the time that the first run took, its start included, for the others
from the time of its steps, counted from the first step of the attempt. Where a run
comes to its end before, the kills that are left go to a third one, and so on. All must
agree with the first bit for bit: the loss of every step, however often it was taken,
and in the final checkpoint the weights, the optimiser and the loss with the state of
every rank. Kills fall into start-up, steps,
clustering and the writing of checkpoints alike; checkpoints come every fourth step.

Exit code 1 if anything differs. A run has 16 images in a step, 15 steps an epoch.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import host_runs  # noqa: E402

PREEMPTED = 75


@dataclass
class Case:
    """A method on a number of ranks, and what its kills did."""

    method: str
    ranks: int
    kills: int = 0
    runs: int = 0
    in_training: int = 0
    steps_done: list[int] = field(default_factory=list)
    steps_redone: int = 0
    seconds: float = 0.0
    seconds_of_steps: float = 0.0
    differences: list[str] = field(default_factory=list)


def command(args: argparse.Namespace, case: Case, folder: Path) -> list[str]:
    extra = [
        "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1",
        "config.CHECKPOINT.CHECKPOINT_ITER_FREQUENCY=4",
    ]
    if case.method == "swav":
        # Full after 20 steps of 16 images, in the second epoch.
        extra.append("config.LOSS.swav.queue_length=320")
    overrides = host_runs.overrides(
        args.images,
        folder,
        *extra,
        loss=case.method,
        processes=case.ranks,
        epochs=args.epochs,
    )
    return [sys.executable, "-m", "vissl_swav.train", *overrides]


def start(
    args: argparse.Namespace, case: Case, folder: Path
) -> subprocess.Popen[bytes]:
    """The run in a process group of its own; its output goes to a file."""
    with open(f"{folder}.log", "ab") as log:
        return subprocess.Popen(
            command(args, case, folder),
            cwd=ROOT,
            env={**host_runs.ENVIRONMENT, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def wait(process: subprocess.Popen[bytes], seconds: float | None) -> int | None:
    """The exit code, or None if the process still runs after so many seconds."""
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None


def wait_for_a_step(
    process: subprocess.Popen[bytes], folder: Path, before: int
) -> None:
    """Until there are more steps than before, or the process is at its end."""
    while process.poll() is None and len(steps_of(folder)) <= before:
        time.sleep(0.02)


def finish(args: argparse.Namespace, case: Case, folder: Path) -> float:
    """Runs to the end; returns the seconds it took."""
    began = time.monotonic()
    process = start(args, case, folder)
    code = wait(process, args.timeout)
    if code is None:
        end(process, signal.SIGKILL)
    if code != 0:
        tail = Path(f"{folder}.log").read_text(errors="replace")[-3000:]
        raise SystemExit(f"{case.method}, {case.ranks} ranks: exit code {code}\n{tail}")
    return time.monotonic() - began


def end(process: subprocess.Popen[bytes], number: int) -> int:
    """Signals the run's whole process group, which is ours alone; its exit code."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass
    return process.wait()


def steps_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of `steps.jsonl`; half a line, which a kill may leave, is no line."""
    file = folder / "steps.jsonl"
    lines = []
    for text in file.read_text().splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def torment(args: argparse.Namespace, case: Case, folder: Path, kills: int) -> int:
    """Kills and restarts one run, at most so many times, until it is at its end.

    Returns:
        The kills it has had; fewer where it came to its end before its moment.
    """
    number, begun = getattr(signal, f"SIG{args.signal}"), case.kills
    while case.kills - begun < kills:
        before = len(steps_of(folder))
        process = start(args, case, folder)
        moment = args.draw.uniform(0.0, case.seconds)
        if case.kills % 2:
            moment = args.draw.uniform(0.0, case.seconds_of_steps)
            wait_for_a_step(process, folder, before)
        if (code := wait(process, moment)) is None:
            code = end(process, number)
        if code == 0:
            return case.kills - begun
        if code not in (-number, PREEMPTED):
            raise SystemExit(f"{folder}: exit code {code}, see {folder}.log")
        case.kills += 1
        steps = steps_of(folder)
        case.in_training += len(steps) > before
        case.steps_done.append(max((line["step"] for line in steps), default=0))
        print(
            f"  {case.method}, {case.ranks} ranks, kill {case.kills} after "
            f"{moment:.1f} s: step {case.steps_done[-1]}",
            flush=True,
        )
    finish(args, case, folder)
    return kills


def losses(folder: Path, differences: list[str]) -> dict[int, float]:
    """Loss by step; a step that was taken again must have given the same."""
    found: dict[int, float] = {}
    for line in steps_of(folder):
        if found.setdefault(line["step"], line["loss"]) != line["loss"]:
            differences.append(f"{folder.name}: step {line['step']} gave two losses")
    return found


def compare(case: Case, whole: Path, killed: Path) -> None:
    """Losses, weights, optimiser and state of the loss; fills `case.differences`."""
    one, other = (losses(folder, case.differences) for folder in (whole, killed))
    case.steps_redone += len(steps_of(killed)) - len(other)
    for step, loss in one.items():
        # The last line before a kill may not have reached the file.
        if step in other and other[step] != loss:
            case.differences.append(f"loss of step {step}: {loss} and {other[step]}")
    if len(other) < len(one) - case.kills:
        case.differences.append(f"{len(one) - len(other)} steps were never told")
    names = [sorted(f.name for f in x.glob("model_final*")) for x in (whole, killed)]
    if names[0] != names[1] or len(names[0]) != 1:
        case.differences.append(f"final checkpoints {names}")
        return
    contents = [
        torch.load(folder / names[0][0], weights_only=False, map_location="cpu")
        for folder in (whole, killed)
    ]
    for part in ("loss", "classy_state_dict", "iteration"):
        for path in unequal(contents[0][part], contents[1][part], part):
            case.differences.append(f"final {path}")


def unequal(one: Any, other: Any, path: str) -> list[str]:
    """Where two nested containers of tensors differ, bit for bit."""
    if isinstance(one, torch.Tensor):
        same = isinstance(other, torch.Tensor) and torch.equal(one, other)
        return [] if same else [path]
    if isinstance(one, dict):
        if not isinstance(other, dict) or one.keys() != other.keys():
            return [path]
        # Losses of the epoch so far, for a log line only: a resumed epoch has fewer.
        keys = [key for key in one if (path, key) != ("classy_state_dict", "losses")]
        return [at for k in keys for at in unequal(one[k], other[k], f"{path}.{k}")]
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [path]
        pairs = enumerate(zip(one, other, strict=True))
        return [at for i, (a, b) in pairs for at in unequal(a, b, f"{path}[{i}]")]
    return [] if one == other else [path]


def table(cases: list[Case]) -> str:
    rows = [
        "| method | ranks | kills | runs | in training | at steps | run again | lost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        at = " ".join(map(str, case.steps_done)) or "-"
        lost = "; ".join(case.differences[:3]) or "nothing"
        rows.append(
            f"| {case.method} | {case.ranks} | {case.kills} | {case.runs} | "
            f"{case.in_training} | "
            f"{at} | {case.steps_redone} | {lost} |"
        )
    return "\n".join(rows)


def judge(args: argparse.Namespace, case: Case, stem: Path) -> None:
    """One case: the whole run, then killed ones until it has had its kills."""
    kills, case.kills = case.kills, 0
    args.draw = random.Random(f"{args.seed} {case.method} {case.ranks}")
    whole = stem.with_name(f"{stem.name}_whole")
    case.seconds = finish(args, case, whole)
    times = [line["time"] for line in steps_of(whole)]
    case.seconds_of_steps = times[-1] - times[0]
    while kills > 0:
        case.runs += 1
        killed = stem.with_name(f"{stem.name}_killed{case.runs}")
        kills -= torment(args, case, killed, kills)
        compare(case, whole, killed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="over all cases")
    parser.add_argument("--methods", nargs="+", default=["swav", "deepcluster_v2"])
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--signal", choices=["KILL", "TERM"], default="KILL")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds a run")
    parser.add_argument("--out", type=Path, help="folder to keep; else a temporary one")
    args = parser.parse_args()
    cases = [Case(method, ranks) for method in args.methods for ranks in args.ranks]
    for number in range(args.kills):
        cases[number % len(cases)].kills += 1
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        out = args.out or Path(scratch)
        args.images = out.absolute() / "images"
        if not args.images.exists():
            host_runs.make_images(args.images, per_class=120)
        for case in cases:
            judge(args, case, out.absolute() / f"{case.method}_{case.ranks}")
    print(table(cases))
    lost = sum(bool(case.differences) for case in cases)
    print(
        f"{sum(case.kills for case in cases)} kills by SIG{args.signal}, "
        f"{lost} of {len(cases)} runs differ from the uninterrupted ones; "
        f"{time.monotonic() - began:.0f} s, {os.cpu_count()} cores"
    )
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
