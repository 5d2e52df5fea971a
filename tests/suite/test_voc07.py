"""VOC07's SVM from the data set's own files to mAP, by the host's script and config."""

import json
import runpy
import sys
import xml.etree.ElementTree as ElementTree

import feature_files
import numpy as np
import pytest
import voc_files
from PIL import Image

pytestmark = pytest.mark.usefixtures("host")
CONFIG = "config=benchmark/linear_image_classification/voc07/{}"
SVM_CONFIG = CONFIG.format("eval_resnet_8gpu_transfer_voc07_svm")


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """VOC's tree, and in `lists` what VISSL's script makes of it."""
    folder = tmp_path_factory.mktemp("voc")
    tree = voc_files.make(folder / "VOC2007")
    lists = folder / "lists"
    lists.mkdir()
    script = "extra_scripts.datasets.create_voc_data_files"
    arguments = ["--data_source_dir", str(tree), "--output_dir", str(lists)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *arguments])
        # As a fresh process has it; another test may have imported it.
        patch.delitem(sys.modules, script, raising=False)
        runpy.run_module(script, run_name="__main__")
    return tree, lists


def _split(lists, split):
    paths = np.load(lists / f"{split}_images.npy")
    return paths, np.load(lists / f"{split}_labels.npy")


def test_the_hosts_lists_say_what_the_annotations_say(voc):
    tree, lists = voc
    kinds = set()
    for split, count in (("train", 40), ("test", 30)):
        paths, labels = _split(lists, split)
        assert labels.shape == (count, 3)
        for path, row in zip(paths, labels, strict=True):
            name = path.rpartition("/")[2].removesuffix(".jpg")
            page = ElementTree.parse(tree / "Annotations" / f"{name}.xml")
            objects = [
                (node.findtext("name"), node.findtext("difficult"))
                for node in page.iter("object")
            ]
            for kind, label in zip(voc_files.CLASSES, row, strict=True):
                mine = {difficult for name, difficult in objects if name == kind}
                # 1 is there, 0 is not, -1 (to be ignored) where all are difficult.
                assert label == (0 if not mine else 1 if "0" in mine else -1)
                kinds.add(int(label))
    assert kinds == {-1, 0, 1}


def test_from_the_lists_to_a_mean_average_precision(voc, tmp_path):
    for split in ("train", "test"):
        paths, labels = _split(voc[1], split)
        pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
        brightest = np.sort(pixels.reshape(len(paths), -1, 3), axis=1)[:, -60:-1:10]
        features = brightest.reshape(len(paths), -1) / 255.0
        feature_files.write(tmp_path, split, features, labels, layer="pixels")
    costs = ("--costs", "0.1,1,10", "--jobs", 1)
    assert feature_files.command("svm", tmp_path, *costs) == 0
    found = json.loads((tmp_path / "svm.json").read_text())["layers"]["pixels"]
    assert found["metric"] == "mean_ap" and found["train_images"] == 40
    assert found["value"] > 90.0
    assert np.mean(found["per_class"]) == pytest.approx(found["value"])


def overrides(lists, out):
    """Data, sizes and device of the host's config; the protocol is its own."""
    size = (
        "[{name: Resize, size: 40}, {name: Resize, size: [32, 32]}, {name: ToTensor}]"
    )
    of_split = [
        f"config.DATA.{split}.{key}={value}"
        for split, name in (("TRAIN", "train"), ("TEST", "test"))
        for key, value in (
            ("DATA_PATHS", f"['{lists}/{name}_images.npy']"),
            ("LABEL_PATHS", f"['{lists}/{name}_labels.npy']"),
            ("BATCHSIZE_PER_REPLICA", 16),
            ("COPY_TO_LOCAL_DISK", "false"),
            ("TRANSFORMS", size),
        )
    ]
    trunk = "config.MODEL.TRUNK"
    pool = 'LINEAR_EVAL_FEAT_POOL_OPS_MAP=[["res5avg",["Identity",[]]]]'
    return [
        *of_split,
        f"{trunk}.NAME=resnet_small",
        f"+{trunk}.RESNET_SMALL={{DEPTH: 18, WIDTH: 8}}",
        f"config.MODEL.FEATURE_EVAL_SETTINGS.{pool}",
        "config.MODEL.WEIGHTS_INIT.PARAMS_FILE=''",
        "+config/benchmark/device=cpu",
        "config.DATA.NUM_DATALOADER_WORKERS=0",
        f"config.CHECKPOINT.DIR={out}",
    ]


@pytest.mark.slow
def test_the_hosts_config_end_to_end(voc, tmp_path, capsys):
    out = tmp_path / "run"
    given = [SVM_CONFIG, *overrides(voc[1], out), "config.SVM.costs.costs_list=[1,10]"]
    assert feature_files.command("svm", *given, "--jobs", 1) == 0
    found = json.loads((out / "svm.json").read_text())["layers"]["res5avg"]
    assert found["train_images"] == 40 and found["test_images"] == 30
    assert found["folds"] == 3 and found["costs"] == [1, 10]
    assert found["solver"]["loss"] == "squared_hinge" and found["solver"]["normalize"]
    # Colours pass through any convolutions; by chance it is near 40 %.
    assert 60.0 < found["value"] <= 100.0
    assert f"{found['value']:.2f}" in capsys.readouterr().out

    # Nothing is mixed with features that lie there; those can be looked at again.
    assert feature_files.command("svm", *given) == 2
    assert f"`vissl-swav svm {out}`" in capsys.readouterr().err.replace("\n", " ")
    settings = ("--costs", "1,10", "--seed", 0, "--out", tmp_path / "again.json")
    assert feature_files.command("svm", out, *settings) == 0
    again = json.loads((tmp_path / "again.json").read_text())["layers"]["res5avg"]
    assert again | {"seconds": 0} == found | {"seconds": 0}

    # The low-shot tool on the same features.
    few = ("--k", "1,2", "--samples", 2, "--costs", "1,10", "--jobs", 1)
    assert feature_files.command("low-shot-svm", out, *few) == 0
    found = json.loads((out / "low-shot-svm.json").read_text())["layers"]["res5avg"]
    assert [result["k"] for result in found["results"]] == [1, 2]
