"""Verdicts on runs whose end is known: two to calibrate on, the others to try them on.

    python benchmarks/health_runs.py --out DIR             # every run: about an hour
    python benchmarks/health_runs.py --out DIR good decay  # these runs alone
    python benchmarks/health_runs.py --out DIR --overhead  # what the hooks cost

The runs stand in `health_cases.py`. Prints a table and writes `health.png`: the loss
and the spread of the features of each run. What a run has come to is measured apart
from the verdicts: its final checkpoint assigns held-out images to its prototypes
(`vissl-swav assign`), and counted are the prototypes in use and the NMI with the
classes, less that of shuffled classes. The verdicts are those of today's thresholds on
the curves of the run, whenever it was made. Exit code 1 where one is wrong: an alarm on
a healthy run, or not the wanted one on another.

`--record FILE` writes the curves of the runs that are named, for the tests of the
verdicts (`tests/health/recorded_runs.json`).
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from health_cases import (
    CALIBRATION,
    COLLAPSED,
    FIRST_TRIAL,
    FOURTH_TRIAL,
    HEALTHY,
    OTHER_VERDICTS,
    SECOND_TRIAL,
    SLOW,
    SWAV,
    THIRD_TRIAL,
    Run,
    head,
)
from health_data import Data, write_weights

from vissl_swav.health.verdicts import Judge, Signals
from vissl_swav.suite import clusters, stage

_SHUFFLES = 20
_SIGNALS = [name for name in Signals.__dataclass_fields__ if name != "queue_in_use"]
RUNS = (
    *(*CALIBRATION, *FIRST_TRIAL, *SECOND_TRIAL, *SLOW, *THIRD_TRIAL, *FOURTH_TRIAL),
    *OTHER_VERDICTS,
)


def train(run: Run, out: Path, data: Data) -> None:
    """Trains, unless an earlier call has."""
    if list((out / run.name).glob("model_final_checkpoint_*")):
        return
    first, *others = run.overrides
    overrides = [
        first,
        "+config/pretrain/swav/crops=embedded",
        f"config.DATA.TRAIN.DATA_PATHS=[{data.train(run.images)}]",
        f"config.OPTIMIZER.num_epochs={run.epochs}",
        f"config.CHECKPOINT.CHECKPOINT_FREQUENCY={run.epochs}",
        "config.MODEL.TRUNK.RESNET_SMALL.WIDTH=8",
        head("100"),
        *others,
    ]
    if run.weights:
        path = out / f"{run.name}.torch"
        write_weights(path, overrides, run.weights)
        overrides.append(f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={path}")
    stage.run(run.name, overrides, out / run.name)


def lines(out: Path, run: Run) -> list[dict[str, Any]]:
    """What the health hook wrote."""
    text = (out / run.name / "health.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def judged(out: Path, run: Run) -> list[list[Any]]:
    """[step, verdict] of what the verdicts of today say of the run's curves."""
    steps = stage.steps(out / run.name)
    readings = {line["step"]: line for line in lines(out, run) if "loss" in line}
    judge, found = Judge(steps[-1]["max_step"] // run.epochs), []
    for step, line in enumerate(steps, start=1):
        judge.add(line["loss"])
        reading = readings.get(step)
        if reading is not None:
            given: dict[str, Any] = {name: reading.get(name) for name in _SIGNALS}
            in_use = "queue_age" in reading
            finding = judge.judge(Signals(**given, queue_in_use=in_use))
            if finding is not None:
                found.append([step, finding.verdict.value])
    return found


def outcome(run: Run, out: Path, data: Data) -> str:
    """Prototypes in use and NMI over chance on held-out images, from the checkpoint."""
    table = out / run.name / "held_out.csv"
    if not table.exists():
        command = [sys.executable, "-m", "vissl_swav.cli", "assign", "--workers", "0"]
        command += ["--images", str(data.held_out(run.images)), "-o", str(table)]
        command += ["--checkpoint", str(out / run.name)]
        subprocess.run(command, check=True, capture_output=True)
    with table.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["head"] == "0"]
    found = torch.tensor([int(row["cluster"]) for row in rows])
    names = [Path(row["path"]).parent.name for row in rows]
    labels = torch.tensor([sorted(set(names)).index(name) for name in names])
    chance, generator = 0.0, random.Random(0)
    for _ in range(_SHUFFLES):
        order = torch.tensor(generator.sample(range(len(labels)), len(labels)))
        nmi = clusters.normalized_mutual_information(found, labels[order])
        chance += nmi / _SHUFFLES
    over = clusters.normalized_mutual_information(found, labels) - chance
    return f"{len(set(found.tolist()))} | {over:.3f}"


def row(run: Run, out: Path, data: Data) -> tuple[bool, str]:
    """Whether the verdicts are right, and a line of the table."""
    found = lines(out, run)
    verdicts = judged(out, run)
    readings = [line for line in found if "loss" in line]
    said = ", ".join(f"{verdict} at {step}" for step, verdict in verdicts) or "none"
    names = {verdict for _, verdict in verdicts}
    alarms = names & {"COLLAPSED", "DIVERGING", "QUEUE HURTS"}
    right = not alarms if run.wanted == HEALTHY else run.wanted in names
    shares = [line["hook_share"] for line in readings if "hook_share" in line]
    last = readings[-1]
    # No share is measured in epochs that are shorter than the time between readings.
    cost = f"{sum(shares) / len(shares):.2%}" if shares else "-"
    codes = "-"
    if "code_entropy" in last:
        codes = f"{last['mean_code_entropy'] - last['code_entropy']:.3f}"
    return right, (
        f"| {run.name} | {run.cause} | {run.wanted} | {last['step']} | "
        f"{last['loss']:.3f} | {last['progress']:.1%} | {last['feature_spread']:.3f} | "
        f"{codes} | {outcome(run, out, data)} | {said} | {'yes' if right else 'NO'} | "
        f"{cost} |"
    )


def picture(out: Path, runs: list[Run]) -> Path:
    """Two rows of plots a line of runs: loss over ln K, spread of the features."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    wide = min(8, len(runs))
    high = -(-len(runs) // wide)
    figure, axes = plt.subplots(
        2 * high, wide, figsize=(2.1 * wide, 3.6 * high), squeeze=False
    )
    for place, run in enumerate(runs):
        line, column = divmod(place, wide)
        _draw(axes[2 * line][column], axes[2 * line + 1][column], out, run)
    for place in range(len(runs), wide * high):
        for line in (2 * high - 2, 2 * high - 1):
            axes[line][place % wide].axis("off")
    for line in range(high):
        axes[2 * line][0].set_ylabel("loss / ln K", fontsize=8)
        axes[2 * line + 1][0].set_ylabel("feature spread", fontsize=8)
    path = out / "health.png"
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    return path


def _draw(above: Any, below: Any, out: Path, run: Run) -> None:
    readings = [line for line in lines(out, run) if "loss" in line]
    colour = {HEALTHY: "C0", COLLAPSED: "C3"}.get(run.wanted, "C1")
    steps = [r["step"] for r in readings]
    # Of several numbers of prototypes: in units of the ceiling.
    above.plot(steps, [r["loss"] / r["ceiling"] for r in readings], colour)
    above.axhline(1, color="grey", ls="--", lw=0.8)
    above.set_ylim(0.1, 1.4)
    below.plot(steps, [r["feature_spread"] for r in readings], colour)
    below.axhline(0.05, color="grey", ls="--", lw=0.8)
    below.set_ylim(-0.05, 1.05)
    for step, verdict in judged(out, run):
        above.axvline(step, color="k", lw=0.8)
        place = above.get_xaxis_transform()  # y from 0 to 1.
        words = {"transform": place, "rotation": 90, "fontsize": 6}
        above.text(step + 4, 0.05, verdict, **words)
    above.set_title(run.name, fontsize=8)
    for axis in (above, below):
        axis.tick_params(labelsize=6)


def record(path: Path, out: Path, runs: list[Run]) -> None:
    """The losses, readings and verdicts of runs as a small JSON file."""
    found = {}
    for run in runs:
        steps = stage.steps(out / run.name)
        readings = [line for line in lines(out, run) if "loss" in line]
        found[run.name] = {
            "steps_per_epoch": steps[-1]["max_step"] // run.epochs,
            "losses": [round(line["loss"], 4) for line in steps],
            "signals": _SIGNALS,
            "readings": [
                [*(line.get(name) for name in _SIGNALS), "queue_age" in line]
                for line in readings
            ],
            "verdicts": judged(out, run),
        }
    text = ",\n".join(
        f"{json.dumps(name)}: {json.dumps(value, separators=(',', ':'))}"
        for name, value in found.items()
    )
    path.write_text("{\n" + text + "\n}\n", encoding="utf-8")


def overhead(out: Path, data: Data) -> None:
    """Runs an epoch of the quickstart here, with a clock around every hook of ours."""
    from vissl_swav.host import registration

    registration.arm()
    from vissl_swav.host import hook_generator, launch

    seconds: dict[str, float] = {}
    span: list[float] = []

    def timed(name: str, method: Any) -> Any:
        def call(task: Any) -> Any:
            began = time.perf_counter()
            span.append(began)
            result = method(task)
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began
            return result

        return call

    def watched(cfg: Any) -> list[Any]:
        hooks = original(cfg)
        for hook in hooks:
            for event in ("on_forward", "on_loss_and_meter", "on_backward", "on_step"):
                setattr(hook, event, timed(hook.name(), getattr(hook, event)))
        return hooks

    original, hook_generator.hooks_of = hook_generator.hooks_of, watched
    launch.start(
        [
            SWAV,
            "+config/pretrain/swav/crops=embedded",
            f"config.DATA.TRAIN.DATA_PATHS=[{data.train('embedded')}]",
            "config.OPTIMIZER.num_epochs=2",
            f"config.CHECKPOINT.DIR={out / 'overhead'}",
        ]
    )
    total = span[-1] - span[0]
    for name in sorted(seconds):
        print(f"{name}: {seconds[name] / total:.2%} of {total:.1f} s")


def main() -> int:
    """Runs what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as an image folder")
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--record", type=Path, help="write the runs' curves here")
    parser.add_argument("names", nargs="*", help="of runs; all without it")
    args = parser.parse_args()
    known = {run.name: run for run in RUNS}
    unknown = [name for name in args.names if name not in known]
    if unknown:
        parser.error(f"no run is called {unknown[0]}; there are {', '.join(known)}")
    data = Data(args.out.resolve(), args.cifar)
    if args.overhead:
        overhead(args.out, data)
        return 0
    all_right = True
    print(
        "| run | differs by | made to be | steps | last loss | progress | feature "
        "spread | code information | clusters | NMI over chance | verdicts | right | "
        "hook |"
    )
    print("|---" * 13 + "|", flush=True)
    runs = [known[name] for name in args.names] or list(RUNS)
    for run in runs:
        train(run, args.out.resolve(), data)
        right, text = row(run, args.out, data)
        print(text, flush=True)
        all_right &= right
    print(picture(args.out, runs))
    if args.record:
        record(args.record, args.out, runs)
    return 0 if all_right else 1


if __name__ == "__main__":
    sys.exit(main())
