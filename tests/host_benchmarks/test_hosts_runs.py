"""Some of VISSL's own benchmarks from end to end, of one pretraining of ours.

The host's configs as they are, but for data path, device and size: a dozen images of
made-up classes, batches of 4, one epoch (and so one learning rate), no loader workers.
"""

import json
import re

import host_runs
import numpy as np
import pytest
import retrieval_files
from host_catalogue import LINEAR

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("host")]
ROBUSTNESS = "benchmark/robustness_out_of_distribution"
CPU = ("+config/benchmark/device=cpu", "config.DATA.NUM_DATALOADER_WORKERS=0")
# The 53 counters of BatchNorm are left out by the host's SKIP_LAYERS.
LOADED = 318 - 53
SECONDS = 900
ONE_RATE = (
    "config.OPTIMIZER.num_epochs=1",
    "config.OPTIMIZER.param_schedulers.lr.values=[0.01]",
    "config.OPTIMIZER.param_schedulers.lr.milestones=[]",
)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """`train/` and `val/`, as folders and as lists of files and labels."""
    folder = tmp_path_factory.mktemp("data")
    for seed, (split, per_class) in enumerate((("train", 4), ("val", 2))):
        images = host_runs.make_images(
            folder / split, classes=3, per_class=per_class, size=64, seed=seed
        )
        paths = sorted(str(path) for path in images.rglob("*.png"))
        labels = [int(re.findall(r"class(\d)", path)[-1]) for path in paths]
        np.save(folder / f"{split}.npy", np.array(paths))
        np.save(folder / f"{split}_labels.npy", np.array(labels))
    return folder


@pytest.fixture(scope="session")
def checkpoint(host, data, tmp_path_factory):
    """Two steps of SwAV with a ResNet-50, by `vissl-swav train`."""
    folder = tmp_path_factory.mktemp("pretrain")
    crops = "size_crops:[64,32],num_crops:[2,1],crop_scales:[[0.3,1.0],[0.1,0.3]]"
    host_runs.train(
        "config=pretrain/swav/resnet50_400ep",
        *CPU,
        "config.DATA.TRAIN.DATA_SOURCES=[disk_folder]",
        f"config.DATA.TRAIN.DATA_PATHS=[{data / 'train'}]",
        "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=4",
        f"config.DATA.TRAIN.TRANSFORMS=[{{name:MultiCrop,{crops},total_num_crops:3}}]",
        "config.MODEL.AMP_PARAMS.USE_AMP=false",
        "config.LOSS.swav.freeze_prototypes_epochs=0",
        "config.OPTIMIZER.num_epochs=1",
        f"config.CHECKPOINT.DIR={folder}",
        timeout=SECONDS,
    )
    return folder / "checkpoint.torch"


def paths(data, split, kind):
    """The data path of a split: a folder, or two lists."""
    name, key = {"TRAIN": "train", "TEST": "val"}[split], f"config.DATA.{split}"
    if kind == "folder":
        return [f"{key}.DATA_PATHS=[{data / name}]"]
    return [
        f"{key}.DATA_PATHS=[{data / name}.npy]",
        f"{key}.LABEL_PATHS=[{data / name}_labels.npy]",
    ]


def evaluate(config, checkpoint, folder, *extra):
    """Runs it; returns the lines of metrics.json, after counting what was loaded."""
    host_runs.train(
        f"config={config}",
        *CPU,
        "config.DATA.TEST.BATCHSIZE_PER_REPLICA=4",
        f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={checkpoint}",
        f"config.CHECKPOINT.DIR={folder}",
        *extra,
        timeout=SECONDS,
    )
    log = (folder / "log.txt").read_text()
    assert len(re.findall(r"Loaded: trunk\.", log)) == LOADED
    assert "Loaded: heads" not in log
    text = (folder / "metrics.json").read_text()
    return [json.loads(line) for line in text.splitlines()]


# The config, the kinds of its two data sources, its outputs, and what else is size.
TRAINED = {
    "linear": (
        f"{LINEAR}/imagenet1k/eval_resnet_8gpu_transfer_in1k_linear",
        ("folder", "folder"),
        ["conv1", "res2", "res3", "res4", "res5"],
        (),
    ),
    "fulltune": (
        "benchmark/fulltune/imagenet1k/eval_resnet_8gpu_transfer_in1k_fulltune",
        ("folder", "folder"),
        ["0"],
        (),
    ),
    "semi_supervised": (
        "benchmark/semi_supervised/imagenet1k/"
        "eval_resnet_8gpu_transfer_in1k_semi_sup_fulltune",
        ("lists", "folder"),
        ["0"],
        ("config.DATA.TRAIN.COPY_DESTINATION_DIR={copies}",),
    ),
    "vtab": (
        "benchmark/low_shot_transfer/caltech101/"
        "eval_resnet_8gpu_transfer_caltech101_low_tune",
        ("folder", "folder"),
        ["0"],
        ("config.DATA.TRAIN.DATA_LIMIT=6",),
    ),
    "imagenet_a": (
        f"{ROBUSTNESS}/imagenet_a/eval_resnet_8gpu_robustness_in1k_linear",
        ("folder", "lists"),
        ["res5", "res5avg"],
        (),
    ),
}


@pytest.mark.parametrize("name", TRAINED)
def test_trained_and_tested(name, data, checkpoint, tmp_path):
    config, kinds, outputs, size = TRAINED[name]
    sources = [
        override
        for split, kind in zip(("TRAIN", "TEST"), kinds, strict=True)
        for override in paths(data, split, kind)
    ]
    size = [override.format(copies=tmp_path / "copies") for override in size]
    batch = "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=4"
    folder = tmp_path / "run"
    train, test = evaluate(
        config, checkpoint, folder, *sources, batch, *ONE_RATE, *size
    )
    for line, split in ((train, "train"), (test, "test")):
        top1 = line[f"{split}_accuracy_list_meter"]["top_1"]
        assert list(top1) == outputs
        assert all(0 <= value <= 100 for value in top1.values())
    # The host's launcher takes its copies away again.
    assert not (tmp_path / "copies").exists()


def test_tested_only(data, checkpoint, tmp_path):
    sources = paths(data, "TEST", "folder")
    config = f"{ROBUSTNESS}/eval_resnet_8gpu_test_only"
    (test,) = evaluate(config, checkpoint, tmp_path, *sources)
    # 1000 classes and six images: an untrained head knows none, or one by chance.
    assert test["test_accuracy_list_meter"]["top_1"]["0"] <= 50


def test_nearest_neighbours(data, checkpoint, tmp_path):
    done = host_runs.python(
        *("-m", "vissl_swav.cli", "knn"),
        "config=benchmark/nearest_neighbor/eval_resnet_8gpu_in1k_kNN",
        *CPU,
        *paths(data, "TRAIN", "folder"),
        *paths(data, "TEST", "folder"),
        "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=4",
        "config.DATA.TEST.BATCHSIZE_PER_REPLICA=4",
        f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={checkpoint}",
        f"config.CHECKPOINT.DIR={tmp_path}",
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "knn.json").read_text())
    assert found["layers"]


RETRIEVAL = {
    "copydays": lambda folder: retrieval_files.make_copydays(folder),
    "roxford": lambda folder: [
        retrieval_files.make_revisited(folder, name)
        for name in ("roxford5k", "rparis6k")
    ],
}
# By `python -m`, with the shims as an interpreter with our .pth file has them.
TOOL = """
import runpy, vissl_swav.compat
vissl_swav.compat.apply()
from vissl_swav.host.registration import arm
arm()
runpy.run_module("tools.instance_retrieval_test", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("name", RETRIEVAL)
def test_instance_retrieval(name, checkpoint, tmp_path):
    RETRIEVAL[name](tmp_path / "data")
    folder = tmp_path / "run"
    done = host_runs.python(
        "-c",
        TOOL,
        f"config=benchmark/instance_retrieval/eval_resnet_1gpu_{name}",
        CPU[0],
        f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={checkpoint}",
        f"config.IMG_RETRIEVAL.DATASET_PATH={tmp_path / 'data'}",
        "config.IMG_RETRIEVAL.RESIZE_IMG=64",
        f"config.CHECKPOINT.DIR={folder}",
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    found = json.loads((folder / "metrics.json").read_text())
    # A query that is itself in the database is found first.
    same = found["original"]["mAP"] if name == "copydays" else found["mAP"]["m"]
    assert same == 1.0
    log = (folder / "log.txt").read_text()
    assert len(re.findall(r"Loaded: trunk\.", log)) == LOADED
    assert "Instance retrieval on the CPU, by vissl_swav" in log
