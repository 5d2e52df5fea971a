"""Small runs of the host for the tests: a tiny image folder and the overrides."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def make_images(folder, *, classes=2, per_class=24, size=32, seed=0):
    """`folder/<class>/<n>.png`, noise of one colour a class."""
    rng = np.random.default_rng(seed)
    for label in range(classes):
        target = Path(folder) / f"class{label}"
        target.mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(0, 120, (size, size, 3)) + 100 * label
            Image.fromarray(pixels.astype("uint8")).save(target / f"{number}.png")
    return Path(folder)


def overrides(images, folder, *extra, loss="swav", processes=1, epochs=2):
    """A tiny SwAV run: 3 steps an epoch of 16 images, 2 + 1 crops, 12 prototypes."""
    thaws = epochs == 1 and loss != "deepcluster_v2"
    return [
        "config=pretrain/swav/quickstart",
        f"config.LOSS.name={loss}",
        "config.LOSS.swav.trainable_prototypes=true",
        "config.LOSS.swav.temperature=0.1",
        f"config.DATA.TRAIN.DATA_PATHS=[{images}]",
        f"config.DATA.TRAIN.BATCHSIZE_PER_REPLICA={16 // processes}",
        "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[24,16],"
        "num_crops:[2,1],crop_scales:[[0.3,1.0],[0.1,0.3]],total_num_crops:3}]",
        "config.MODEL.TRUNK.RESNET_SMALL.WIDTH=2",
        "config.MODEL.HEAD.PARAMS=[[swav_head,{dims:[16,16,8],use_bn:true,"
        "num_clusters:[12]}]]",
        f"config.OPTIMIZER.num_epochs={epochs}",
        f"config.DISTRIBUTED.NUM_PROC_PER_NODE={processes}",
        f"config.CHECKPOINT.DIR={folder}",
        # A freeze of one epoch would last the whole run, which a start refuses.
        *([f"config.LOSS.{loss}.freeze_prototypes_epochs=0"] if thaws else []),
        *extra,
    ]


def python(*arguments, cwd=None, env=None, timeout=240):
    """Runs python with the arguments; returns the finished process, output as text."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd or ROOT,
        env={**ENVIRONMENT, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def train(*arguments, **settings):
    """`python -m vissl_swav.train ...`; fails with the output if that fails."""
    done = python("-m", "vissl_swav.train", *arguments, **settings)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def lines(folder):
    """What the run wrote about each step, in the order of writing."""
    text = (Path(folder) / "steps.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def losses(folder):
    """Loss of every step."""
    return [line["loss"] for line in lines(folder)]
