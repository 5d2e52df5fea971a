"""The host's own command lines, unchanged, on the CPU: training, resume, evaluation."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("host")]
ROOT = Path(__file__).resolve().parents[2]
CPU = [
    "config.MACHINE.DEVICE=cpu",
    "config.DISTRIBUTED.BACKEND=gloo",
    "config.DATA.NUM_DATALOADER_WORKERS=0",
]
# The message begins so for autocast and for GradScaler.
DEPRECATED = "error:`torch.cuda.amp:FutureWarning"
RESIZE = "[{name: Resize, size: [64, 64]}, {name: ToTensor}]"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes of 8 training and 3 test images: red, green and blue."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("host_command_lines")
    (folder / "sitecustomize.py").write_text((ROOT / "vissl_swav.pth").read_text())
    generator = np.random.default_rng(0)
    for split, num_images in (("train", 8), ("val", 3)):
        names, labels = [], []
        for color in range(3):
            (folder / split / f"c{color}").mkdir(parents=True)
            for i in range(num_images):
                pixels = generator.integers(0, 80, (40, 40, 3), dtype=np.uint8)
                pixels[..., color] += 120
                name = folder / split / f"c{color}" / f"{i}.png"
                Image.fromarray(pixels).save(name)
                names.append(str(name))
                labels.append(np.eye(3, dtype=int)[color])
        np.save(folder / f"{split}_images.npy", np.array(names))
        np.save(folder / f"{split}_labels.npy", np.array(labels))
    return folder


def _data(folder, splits, *, as_lists=False, batch=4):
    overrides = []
    for split, name in splits:
        source = "disk_filelist" if as_lists else "disk_folder"
        images = folder / (f"{name}_images.npy" if as_lists else name)
        labels = folder / (f"{name}_labels.npy" if as_lists else name)
        section = f"config.DATA.{split}"
        overrides += [
            f"{section}.DATA_SOURCES=[{source}]",
            f"{section}.LABEL_SOURCES=[{source}]",
            f"{section}.DATA_PATHS=['{images}']",
            f"{section}.LABEL_PATHS=['{labels}']",
            f"{section}.BATCHSIZE_PER_REPLICA={batch}",
            f"{section}.COPY_TO_LOCAL_DISK=false",
        ]
    return overrides


def _run(folder, module, *overrides):
    run = subprocess.run(
        [sys.executable, "-W", DEPRECATED, "-m", module, *CPU, *overrides],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
            "OMP_NUM_THREADS": "1",
            "VISSL_SWAV_AUTO": "1",
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
    )
    output = run.stdout + run.stderr
    assert run.returncode == 0, output[-4000:]
    return output


def _train(folder, *overrides):
    return _run(
        folder,
        "tools.run_distributed_engines",
        "config=test/integration_test/quick_swav",
        *_data(folder, [("TRAIN", "train")]),
        "config.DATA.TRAIN.TRANSFORMS.0.size_crops=[48,32]",
        "config.DATA.TRAIN.DATA_LIMIT=16",
        f"config.CHECKPOINT.DIR={folder}/trained",
        *overrides,
    )


def _evaluation(folder, name, *, as_lists):
    both = [("TRAIN", "train"), ("TEST", "val")]
    pool = 'LINEAR_EVAL_FEAT_POOL_OPS_MAP=[["res5avg",["Identity",[]]]]'
    return [
        *_data(folder, both, as_lists=as_lists),
        f"config.DATA.TRAIN.TRANSFORMS={RESIZE}",
        f"config.DATA.TEST.TRANSFORMS={RESIZE}",
        "config.DATA.TRAIN.DATA_LIMIT=-1",
        "config.DATA.TEST.DATA_LIMIT=-1",
        f"config.MODEL.FEATURE_EVAL_SETTINGS.{pool}",
        f"config.CHECKPOINT.DIR={folder}/{name}",
    ]


def test_training_on_two_processes_with_larc_then_more_epochs_in_bfloat16(folder):
    output = _train(folder, "config.DISTRIBUTED.NUM_PROC_PER_NODE=2")
    assert "LARC: vissl_swav's own" in output
    assert "VISSL compatibility: " in output
    assert (folder / "trained" / "model_final_checkpoint_phase0.torch").exists()

    output = _train(
        folder,
        "config.DISTRIBUTED.NUM_PROC_PER_NODE=1",
        "config.OPTIMIZER.num_epochs=2",
        "config.MODEL.AMP_PARAMS.USE_AMP=true",
        "config.MODEL.AMP_PARAMS.AMP_DTYPE=bfloat16",
    )
    assert "Resuming the finished run for more epochs" in output
    assert "AMP: torch.autocast('cpu', bfloat16)" in output
    assert "[ep: 0]" not in output and "[ep: 1]" in output
    assert (folder / "trained" / "model_final_checkpoint_phase1.torch").exists()


def test_the_knn_tool_on_two_processes(folder):
    output = _run(
        folder,
        "tools.nearest_neighbor_test",
        "config=test/integration_test/quick_knn_trunk",
        *_evaluation(folder, "knn", as_lists=False),
        "config.DISTRIBUTED.NUM_PROC_PER_NODE=2",
        "config.NEAREST_NEIGHBOR.L2_NORM_FEATS=true",
        "config.NEAREST_NEIGHBOR.TOPK=3",
    )
    # Colours are told apart by any convolution, so the labels are right or it shows.
    assert "layer: res5avg Top1: 100.0, Top5: 100.0" in output


@pytest.mark.parametrize("tool", ["train_svm", "train_svm_low_shot"])
def test_the_svm_tools(folder, tool):
    output = _run(
        folder,
        f"tools.{tool}",
        "config=test/integration_test/quick_voc07_svm",
        *_evaluation(folder, tool, as_lists=True),
        "config.SVM.low_shot.dataset_name=voc",
        "config.SVM.low_shot.k_values=[2]",
        "config.SVM.low_shot.sample_inds=[1]",
    )
    wanted = (
        "res5avg']: [np.float64(100.0)]" if tool == "train_svm" else "'k=2': {'mean"
    )
    assert wanted in output


def test_clusters_on_two_processes_become_a_data_set(folder):
    _run(
        folder,
        "tools.run_distributed_engines",
        "engine_name=extract_cluster",
        "config=extract_cluster/swav/visualise_swav_resnet_in1k_8gpu",
        *_data(folder, [("TRAIN", "train"), ("TEST", "val")]),
        f"config.DATA.TRAIN.TRANSFORMS={RESIZE}",
        f"config.DATA.TEST.TRANSFORMS={RESIZE}",
        "config.MODEL.WEIGHTS_INIT.PARAMS_FILE=''",
        "config.DISTRIBUTED.NUM_PROC_PER_NODE=2",
        f"config.CHECKPOINT.DIR={folder}/clusters",
    )
    from vissl.utils.cluster_utils import ClusterAssignmentLoader

    assignment = ClusterAssignmentLoader.load_cluster_assigment(
        str(folder / "clusters" / "cluster_assignments.torch")
    ).cluster_assignments
    assert sorted(assignment["TRAIN"]) == list(range(24))
    assert sorted(assignment["TEST"]) == list(range(9))
