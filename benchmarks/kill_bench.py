"""Kills training runs at random moments, restarts them, and counts what was lost.

    python benchmarks/kill_bench.py --kills 20 [--methods swav deepcluster_v2 sela_v2]
        [--ranks 1 2 3] [--signal KILL|TERM] [--seed 0] [--out FOLDER]

For each method and number of ranks one run goes through without interruption. A second
one is killed, its whole process group at once, and started again, until it has had its
share of the kills; then it runs to its end. A start is killed at a moment drawn
uniformly between its first step and the end that is expected of it, labels and
checkpoints included; every other one then lives on until it writes a checkpoint, and is
killed while it does. (`--start-up SHARE` draws that share of the kills from the time
before the first step.) Where a run comes to its end before its moment, the kills that
are left go to another one, and so on. All must agree with the first bit for bit: the
loss of every step, however often it was taken, and in the final checkpoint the weights,
the optimiser and the loss with the state of every rank. Checkpoints come every fourth
step and at every epoch's end.

Exit code 1 if anything differs. A run has 16 images in a step (15 on 3 ranks), 15 steps
an epoch (16).
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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import host_runs  # noqa: E402
import same_runs  # noqa: E402

PREEMPTED = 75
# More ranks than cores are no mistake here.
MORE_RANKS = {"VISSL_SWAV_ALLOW_OVERSUBSCRIPTION": "1"}
# What `compat.checkpoint_writing` writes to before it renames.
PARTIAL = ".being-written-*"


@dataclass
class Case:
    """A method on a number of ranks, and what its kills did."""

    method: str
    ranks: int
    kills: int = 0
    runs: int = 0
    in_training: int = 0
    in_writing: int = 0
    steps_done: list[int] = field(default_factory=list)
    steps_redone: int = 0
    num_steps: int = 0
    seconds_to_first_step: float = 0.0
    seconds_of_steps: float = 0.0
    differences: list[str] = field(default_factory=list)


def command(args: argparse.Namespace, case: Case, folder: Path) -> list[str]:
    extra = [
        "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1",
        "config.CHECKPOINT.CHECKPOINT_ITER_FREQUENCY=4",
    ]
    if case.method == "swav":
        # Full after 20 steps of 16 images, in the second epoch.
        extra.append(f"config.LOSS.swav.queue_length={20 * (16 - 16 % case.ranks)}")
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
            env={**host_runs.ENVIRONMENT, **MORE_RANKS, "PYTHONPATH": str(ROOT)},
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


def wait_until(process: subprocess.Popen[bytes], happens: Callable[[], bool]) -> None:
    """Until that happens, or the process is at its end."""
    while process.poll() is None and not happens():
        time.sleep(0.001)


def is_writing(folder: Path) -> bool:
    """Whether a checkpoint is being written, or was when the run was killed."""
    return any(folder.glob(PARTIAL))


def finish(args: argparse.Namespace, case: Case, folder: Path) -> None:
    """Runs to the end."""
    process = start(args, case, folder)
    code = wait(process, args.timeout)
    if code is None:
        end(process, signal.SIGKILL)
    if code != 0:
        tail = Path(f"{folder}.log").read_text(errors="replace")[-3000:]
        raise SystemExit(f"{case.method}, {case.ranks} ranks: exit code {code}\n{tail}")


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


def live_until_the_moment(
    args: argparse.Namespace, case: Case, folder: Path, process: subprocess.Popen[bytes]
) -> tuple[int | None, float]:
    """Waits for the moment at which this start is to be killed.

    Returns:
        The exit code, None where it still runs; seconds from its first step, or from
        its beginning where it is to die before.
    """
    if args.draw.random() < args.start_up:
        moment = args.draw.uniform(0.0, case.seconds_to_first_step)
        return wait(process, moment), moment
    before, size = len(steps_of(folder)), size_of(folder)
    wait_until(
        process,
        lambda: size_of(folder) > size and len(steps_of(folder)) > before,
    )
    began, done = time.monotonic(), steps_of(folder)[-1:]
    left = 1 - (done[0]["step"] if done else 0) / case.num_steps
    code = wait(process, args.draw.uniform(0.0, left * case.seconds_of_steps))
    if code is None and case.kills % 2:
        wait_until(process, lambda: is_writing(folder))
        code = wait(process, args.draw.uniform(0.0, args.writing))
    return code, time.monotonic() - began


def size_of(folder: Path) -> int:
    """Bytes of `steps.jsonl`: cheaper to ask for than its lines."""
    file = folder / "steps.jsonl"
    return file.stat().st_size if file.exists() else 0


def torment(args: argparse.Namespace, case: Case, folder: Path, kills: int) -> int:
    """Kills and restarts one run, at most so many times, until it is at its end.

    Returns:
        The kills it has had; fewer where it came to its end before its moment.
    """
    number, begun = getattr(signal, f"SIG{args.signal}"), case.kills
    while case.kills - begun < kills:
        before = len(steps_of(folder))
        process = start(args, case, folder)
        code, moment = live_until_the_moment(args, case, folder, process)
        if code is None:
            code = end(process, number)
        if code == 0:
            return case.kills - begun
        if code not in (-number, PREEMPTED):
            raise SystemExit(f"{folder}: exit code {code}, see {folder}.log")
        case.kills += 1
        steps, writing = steps_of(folder), is_writing(folder)
        case.in_training += len(steps) > before
        case.in_writing += writing
        case.steps_done.append(steps[-1]["step"] if steps else 0)
        where = "in a checkpoint" if writing else "out of a checkpoint"
        if len(steps) == before:
            where = "before its first step"
        print(
            f"  {case.method}, {case.ranks} ranks, kill {case.kills} after "
            f"{moment:.2f} s: step {case.steps_done[-1]}, {where}",
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
    for part in same_runs.PARTS:
        for path in same_runs.unequal(contents[0][part], contents[1][part], part):
            case.differences.append(f"final {path}")


def table(cases: list[Case]) -> str:
    rows = [
        "| method | ranks | kills | runs | after its first step | in a checkpoint | "
        "at steps | run again | lost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        at = " ".join(map(str, case.steps_done)) or "-"
        lost = "; ".join(case.differences[:3]) or "nothing"
        rows.append(
            f"| {case.method} | {case.ranks} | {case.kills} | {case.runs} | "
            f"{case.in_training} | {case.in_writing} | "
            f"{at} | {case.steps_redone} | {lost} |"
        )
    return "\n".join(rows)


def judge(args: argparse.Namespace, case: Case, stem: Path) -> None:
    """One case: the whole run, then killed ones until it has had its kills."""
    kills, case.kills = case.kills, 0
    args.draw = random.Random(f"{args.seed} {case.method} {case.ranks}")
    whole = stem.with_name(f"{stem.name}_whole")
    began = time.time()
    finish(args, case, whole)
    times = [line["time"] for line in steps_of(whole)]
    case.num_steps, case.seconds_to_first_step = len(times), times[0] - began
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
    parser.add_argument("--start-up", type=float, default=0.0, help="share of kills")
    parser.add_argument(
        "--writing", type=float, default=0.003, help="seconds into a checkpoint at most"
    )
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
        f"{sum(case.in_training for case in cases)} of them after a first step and "
        f"{sum(case.in_writing for case in cases)} in a checkpoint; "
        f"{lost} of {len(cases)} runs differ from the uninterrupted ones; "
        f"{time.monotonic() - began:.0f} s, {os.cpu_count()} cores"
    )
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
