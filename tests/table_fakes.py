"""Transfer tables without the host: checkpoints, images and runs that are made up."""

import argparse
import json
from pathlib import Path

import host_runs
import yaml

from vissl_swav.suite import table_arguments

CONFIG = {
    "LOSS": {"name": "swav"},
    "OPTIMIZER": {"num_epochs": 3},
    "DISTRIBUTED": {"NUM_NODES": 1, "NUM_PROC_PER_NODE": 2},
    "DATA": {
        "TRAIN": {
            "DATA_PATHS": ["/nowhere/train"],
            "BATCHSIZE_PER_REPLICA": 8,
            "TRANSFORMS": [
                {"name": "RandomResizedCrop", "size": 24},
                {"name": "Normalize", "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]},
            ],
        }
    },
    "MODEL": {
        "TRUNK": {"NAME": "resnet_small", "RESNET_SMALL": {"DEPTH": 18, "WIDTH": 2}},
        "HEAD": {"PARAMS": [["swav_head", {"dims": [16, 16, 8]}]]},
    },
}
RECIPE = """
name: fake
title: A <made up> table
data: {main: images, other: more images}
rows:
  random trunk: {}
  supervised: {config: benchmark/finetune/small_images, data: main}
benchmarks:
  linear:
    kind: train
    protocol: A linear <layer>.
    config: benchmark/linear/small_images
    data: main
    batch: 16
    epochs: 2
    overrides:
      - config.MODEL.HEAD.PARAMS=[[eval_mlp,{dims:[$feature_dim,$num_classes]}]]
    columns:
      linear:
        title: Linear & more
        metric: top_1
        quoted: {paper: 75.3}
        source: Table 2
  few:
    kind: train
    config: benchmark/finetune/small_images
    data: main
    subset: {per_class: 2}
    columns: {few: {title: Few, metric: top_1}}
  elsewhere:
    kind: train
    config: benchmark/linear/small_images
    data: other
    columns: {elsewhere: {metric: top_1}}
"""


def checkpoint(folder, *, content=b"weights", **changes):
    """A run's folder with a checkpoint that only has bytes, and its config."""
    folder.mkdir(parents=True)
    (folder / "model_final_checkpoint_phase2.torch").write_bytes(content)
    tree = {**CONFIG, **changes}
    (folder / "train_config.yaml").write_text(yaml.safe_dump(tree))
    return folder


def options(*arguments):
    """As the command line gives them."""
    parser = argparse.ArgumentParser()
    table_arguments.add_command(parser.add_subparsers())
    return parser.parse_args(["table", *map(str, arguments)])


class FakeRuns:
    """Takes the place of `stage.run`: notes the runs and leaves made-up figures.

    Attributes:
        calls: (name, overrides, folder) of each run.
        fail: names of runs that end with an error.
        interrupt: name of a run during which the user breaks off.
    """

    def __init__(self):
        self.calls, self.fail, self.interrupt = [], set(), None

    def __call__(self, name, overrides, folder, report=None):
        from vissl_swav.suite.stage import StageFailed

        self.calls.append((name, list(overrides), Path(folder)))
        if name == self.interrupt:
            raise KeyboardInterrupt
        if name in self.fail:
            raise StageFailed(f"{name} ended with exit code 1; <the log>", 1)
        folder.mkdir(parents=True, exist_ok=True)
        weights = next(o for o in overrides if "PARAMS_FILE" in o)
        random = weights.endswith("=''")
        figure = 20.0 if random else 60.0 + 5 * name.startswith("l")
        if report is not None:
            report(1, 2, "loss 1.0")
        lines = [
            {"step": s, "max_step": 4, "epoch": 0, "loss": 2.0 - s / 4} for s in (1, 2)
        ]
        (folder / "steps.jsonl").write_text("\n".join(map(json.dumps, lines)))
        measured = [
            {"train_phase_idx": e, "test_accuracy_list_meter": {"top_1": {"0": v}}}
            for e, v in ((0, figure / 2), (1, figure))
        ]
        (folder / "metrics.json").write_text("\n".join(map(json.dumps, measured)))
        (folder / "model_final_checkpoint_phase1.torch").write_bytes(name.encode())


def draw_at_once(barrier):
    """Of a process that draws a part: it waits for others before it is done."""
    from vissl_swav.data import subsets

    subsample = subsets.subsample_folder

    def drawn(*arguments, **settings):
        made = subsample(*arguments, **settings)
        barrier.wait(60)
        return made

    subsets.subsample_folder = drawn


def draw(images, folder):
    """Draws two images of each class; their number."""
    from vissl_swav.suite import table_data, table_subsets
    from vissl_swav.suite.recipe import Subset

    whole = table_data.read("main", images)
    return table_subsets.take_subset(whole, Subset(2, None, 0), folder).train.num_images


def make_images(root: Path) -> Path:
    """An image folder of 3 classes: 10 training and 2 test images of each."""
    host_runs.make_images(root / "train", classes=3, per_class=10)
    host_runs.make_images(root / "val", classes=3, per_class=2, seed=1)
    return root
