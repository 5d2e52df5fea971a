"""Verdicts on runs whose end is known: two to calibrate on, six to try them on.

    python benchmarks/health_runs.py --out DIR             # some 5 minutes on one core
    python benchmarks/health_runs.py --out DIR --overhead  # what the hooks cost

The quickstart with half its width on 1600 images of the embedded data set, 250 steps a
run. Four runs are healthy by their settings, four are made to collapse, each in its own
way. Prints a table and writes `health.png`, the loss and the spread of the features of
each run. Exit code 1 where a verdict is wrong: an alarm on a healthy run, or none on a
collapsed one.
"""

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vissl_swav.data import embedded
from vissl_swav.suite import stage

_EPOCHS, _IMAGES = 5, 1600
_SWAV = "config=pretrain/swav/quickstart"
_DEEP_CLUSTER = "config=pretrain/deepcluster_v2/quickstart"
_TRAINED = (
    "config.LOSS.swav.trainable_prototypes=true",
    "config.LOSS.swav.freeze_prototypes_epochs=",
)
_RATE = "config.OPTIMIZER.param_schedulers.lr.start_value="


@dataclass(frozen=True)
class Run:
    """A run, what it is made to do, and how it differs from the quickstart."""

    name: str
    cause: str
    collapses: bool
    overrides: tuple[str, ...]
    blank_images: bool = False
    equal_prototypes: bool = False


def head(prototypes: str) -> str:
    return (
        "config.MODEL.HEAD.PARAMS=[[swav_head,{dims:[64,64,16],use_bn:true,"
        f"num_clusters:[{prototypes}]}}]]"
    )


CALIBRATION = (
    Run("good", "the quickstart", False, (_SWAV,)),
    Run(
        "flat_codes",
        "epsilon 1, prototypes trained from step 0",
        True,
        (_SWAV, _TRAINED[0], _TRAINED[1] + "0", "config.LOSS.swav.epsilon=1.0"),
    ),
)
UNSEEN = (
    Run(
        "queue",
        "prototypes trained after an epoch, queue of 10 batches from epoch 2, tau 0.1",
        False,
        (
            _SWAV,
            _TRAINED[0],
            _TRAINED[1] + "1",
            "config.LOSS.swav.temperature=0.1",
            "config.LOSS.swav.queue_length=320",
            "config.LOSS.swav.queue_start_epoch=2",
        ),
    ),
    Run(
        "multi_crop",
        "2x24 + 2x16 crops, 30 prototypes trained, hard codes, lr 0.003",
        False,
        (
            _SWAV,
            "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[24,16],"
            "num_crops:[2,2],crop_scales:[[0.3,1.0],[0.1,0.3]],jitter_probability:0.0,"
            "grayscale_probability:0.0,blur_probability:0.0}]",
            head("30"),
            _TRAINED[0],
            _TRAINED[1] + "1",
            "config.LOSS.swav.hard_codes=true",
            _RATE + "0.003",
        ),
    ),
    Run(
        "deepcluster_v2",
        "DeepCluster-v2, 3 x 100",
        False,
        (_DEEP_CLUSTER, head("100,100,100")),
    ),
    Run(
        "blank_images",
        "every image is grey, prototypes fixed",
        True,
        (_SWAV,),
        blank_images=True,
    ),
    Run(
        "equal_prototypes",
        "starts from weights with equal prototypes, trained after an epoch",
        True,
        (_SWAV, _TRAINED[0], _TRAINED[1] + "1"),
        equal_prototypes=True,
    ),
    Run(
        "blank_clusters",
        "DeepCluster-v2, every image is grey",
        True,
        (_DEEP_CLUSTER, head("100,100,100")),
        blank_images=True,
    ),
)
RUNS = (*CALIBRATION, *UNSEEN)


def train(run: Run, out: Path, data: Path, epochs: int) -> None:
    """Trains, unless an earlier call has."""
    if list((out / run.name).glob("model_final_checkpoint_*")):
        return
    first, *others = run.overrides
    images = blank_images(out) if run.blank_images else data / "train"
    overrides = [
        first,
        "+config/pretrain/swav/crops=embedded",
        f"config.DATA.TRAIN.DATA_PATHS=[{images}]",
        f"config.OPTIMIZER.num_epochs={epochs}",
        f"config.CHECKPOINT.CHECKPOINT_FREQUENCY={epochs}",
        "config.MODEL.TRUNK.RESNET_SMALL.WIDTH=8",
        head("100"),
        *others,
    ]
    if run.equal_prototypes:
        weights = equal_prototypes(out, overrides)
        overrides.append(f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={weights}")
    stage.run(run.name, overrides, out / run.name)


def blank_images(out: Path, count: int = _IMAGES) -> Path:
    """A class folder of grey images."""
    folder = out / "blank" / "grey"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (32, 32), (120, 120, 120)).save(folder / f"{number:05d}.png")
    return folder.parent


def equal_prototypes(out: Path, overrides: list[str]) -> Path:
    """A checkpoint of the host's whose prototypes are one vector."""
    from vissl_swav.host import launch, registration

    registration.arm()
    from vissl.models import build_model

    _, config = launch.compose(overrides)
    torch.manual_seed(0)
    model = build_model(config.MODEL, config.OPTIMIZER)
    with torch.no_grad():
        weight = model.heads[0].prototypes0.weight
        weight.copy_(weight[:1].expand_as(weight))
    path = out / "equal_prototypes.torch"
    state = {"base_model": model.get_classy_state()}
    torch.save({"classy_state_dict": state, "type": "consolidated"}, path)
    return path


def lines(out: Path, run: Run) -> list[dict[str, Any]]:
    text = (out / run.name / "health.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def row(out: Path, run: Run) -> tuple[bool, str]:
    """Whether the verdicts are right, and a line of the table."""
    found = lines(out, run)
    verdicts = [line for line in found if "verdict" in line]
    readings = [line for line in found if "loss" in line]
    said = ", ".join(f"{v['verdict']} at {v['step']}" for v in verdicts) or "none"
    names = {v["verdict"] for v in verdicts}
    alarms = names & {"COLLAPSED", "DIVERGING", "QUEUE HURTS"}
    right = "COLLAPSED" in names if run.collapses else not alarms
    shares = [line["hook_share"] for line in readings if "hook_share" in line]
    last = readings[-1]
    codes = "-"
    if "code_entropy" in last:
        codes = f"{last['mean_code_entropy'] - last['code_entropy']:.3f}"
    return right, (
        f"| {run.name} | {run.cause} | {'collapse' if run.collapses else 'healthy'} | "
        f"{last['loss']:.3f} | {last['progress']:.1%} | {last['feature_spread']:.3f} | "
        f"{codes} | {said} | {'yes' if right else 'NO'} | "
        f"{sum(shares) / len(shares):.2%} |"
    )


def picture(out: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        2, len(RUNS), figsize=(2.1 * len(RUNS), 4), sharex=True, sharey="row"
    )
    for (above, below), run in zip(axes.T, RUNS, strict=True):
        readings = [line for line in lines(out, run) if "loss" in line]
        colour = "C3" if run.collapses else "C0"
        steps = [r["step"] for r in readings]
        # Of several numbers of prototypes: in units of the ceiling.
        above.plot(steps, [r["loss"] / r["ceiling"] for r in readings], colour)
        above.axhline(1, color="grey", ls="--", lw=0.8)
        below.plot(steps, [r["feature_spread"] for r in readings], colour)
        below.axhline(0.05, color="grey", ls="--", lw=0.8)
        for line in lines(out, run):
            if "verdict" in line:
                above.axvline(line["step"], color="k", lw=0.8)
                place = above.get_xaxis_transform()  # y from 0 to 1.
                above.text(
                    line["step"] + 4,
                    0.5,
                    line["verdict"],
                    transform=place,
                    rotation=90,
                    fontsize=6,
                )
        above.set_title(run.name, fontsize=8)
        below.set_xlabel("step", fontsize=8)
    axes[0][0].set_ylabel("loss / ln K", fontsize=8)
    axes[1][0].set_ylabel("feature spread", fontsize=8)
    path = out / "health.png"
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    return path


def overhead(out: Path, data: Path) -> None:
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
            _SWAV,
            "+config/pretrain/swav/crops=embedded",
            f"config.DATA.TRAIN.DATA_PATHS=[{data / 'train'}]",
            "config.OPTIMIZER.num_epochs=2",
            f"config.CHECKPOINT.DIR={out / 'overhead'}",
        ]
    )
    total = span[-1] - span[0]
    for name in sorted(seconds):
        print(f"{name}: {seconds[name] / total:.2%} of {total:.1f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=_EPOCHS)
    parser.add_argument("--images", type=int, default=_IMAGES)
    parser.add_argument("--overhead", action="store_true")
    args = parser.parse_args()
    data = embedded.build(args.out / "data", num_train=args.images, num_test=5)
    if args.overhead:
        overhead(args.out, data)
        return 0
    all_right = True
    print(
        "| run | differs by | made to be | last loss | progress | feature spread | "
        "code information | verdicts | right | hook |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    for run in RUNS:
        train(run, args.out, data, args.epochs)
        right, text = row(args.out, run)
        print(text, flush=True)
        all_right &= right
    print(picture(args.out))
    return 0 if all_right else 1


if __name__ == "__main__":
    sys.exit(main())
