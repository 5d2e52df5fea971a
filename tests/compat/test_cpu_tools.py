import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("host")


def _write_features(folder, split, features, targets):
    rows = np.arange(len(features))
    for name, array in (("features", features), ("targets", targets), ("inds", rows)):
        np.save(folder / f"rank0_chunk0_{split}_res5_{name}.npy", array)


def _config(folder, top_k, sigma=0.1):
    from vissl.config import AttrDict

    settings = {"SIGMA": sigma, "TOPK": top_k, "L2_NORM_FEATS": True}
    return AttrDict(
        {
            "NEAREST_NEIGHBOR": settings,
            "MACHINE": {"DEVICE": "cpu"},
            "CHECKPOINT": {"DIR": str(folder), "APPEND_DISTR_RUN_ID": False},
            "DISTRIBUTED": {"NUM_NODES": 1},
        }
    )


@pytest.mark.parametrize("top_k", [1, 200])
def test_the_knn_tool_with_few_images_and_few_classes(tmp_path, top_k):
    from tools.nearest_neighbor_test import nearest_neighbor_test

    generator = np.random.default_rng(0)
    centers = np.eye(3).repeat(4, axis=0)
    train = centers + 0.05 * generator.normal(size=centers.shape)
    labels = np.arange(3).repeat(4)[:, None]
    # Not pooled: (images, 3, 1, 1). One of the four is labelled wrongly.
    _write_features(tmp_path, "train", train[:, :, None, None], labels)
    _write_features(
        tmp_path, "test", np.eye(3)[[0, 1, 2, 2]], np.array([[0], [1], [2], [0]])
    )
    top1, top5 = nearest_neighbor_test(_config(tmp_path, top_k), layer_name="res5")
    assert (top1, top5) == (75.0, 100.0)


def test_the_knn_tool_with_lists_and_images_without_a_label(tmp_path, caplog):
    from tools.nearest_neighbor_test import nearest_neighbor_test

    points = np.eye(3).repeat(2, axis=0)
    _write_features(
        tmp_path, "train", points, np.array([[0], [-1], [1], [1], [2], [2]])
    )
    _write_features(tmp_path, "test", np.eye(3), np.array([[0], [2], [-1]]))
    caplog.set_level("INFO")
    found = nearest_neighbor_test(
        _config(tmp_path, [1, 20], [0.07, 1e6]), layer_name="res5"
    )
    # One of the two that count is wrong. Counting heads alone, the first is, too.
    assert found == (50.0, 100.0)
    assert caplog.text.count("Total images: 2, Top1: 50.0") == 3
    assert "5 neighbors (TOPK=20), sigma 1000000.0, 5 training images" in caplog.text
    assert "Total images: 2, Top1: 0.0" in caplog.text


def test_multi_label_targets_are_refused(tmp_path):
    from tools.nearest_neighbor_test import nearest_neighbor_test

    for split in ("train", "test"):
        _write_features(tmp_path, split, np.eye(3), np.eye(3, dtype=int))
    with pytest.raises(ValueError, match="one class number an image"):
        nearest_neighbor_test(_config(tmp_path, 1), layer_name="res5")


def test_a_tool_run_as_main_is_mended_too(monkeypatch):
    from hydra.errors import HydraException
    from vissl.utils import hydra_config

    from vissl_swav.compat.wrapping import is_wrapped_by

    main = ModuleType("__main__")
    main.__file__ = "/anywhere/site-packages/tools/nearest_neighbor_test.py"
    main.nearest_neighbor_test = lambda cfg, layer_name: None
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(HydraException, match="config"):
        hydra_config.compose_hydra_configuration(["no_such_group=1"])
    assert is_wrapped_by(main.nearest_neighbor_test, "cpu_tools")


def test_the_low_shot_tool_calls_the_sampling_as_it_does(tmp_path):
    from tools import train_svm_low_shot

    targets = np.eye(3, dtype=np.int32).repeat(4, axis=0)
    train_svm_low_shot.generate_low_shot_samples(
        "voc07", targets, [1, 2], [1], str(tmp_path), "res5"
    )
    sampled = np.load(tmp_path / "res5_sample1_k2.npy")
    assert ((sampled == 1).sum(axis=0) == 2).all()
    assert ((sampled == 0).sum(axis=0) == 4).all()


def test_an_unrelated_program_is_left_alone():
    program = (
        "import vissl_swav.compat as c; c.apply()\n"
        "def nearest_neighbor_test(): return 1\n"
        "import vissl.utils.hydra_config as h\n"
        "try: h.compose_hydra_configuration(['x=1'])\n"
        "except Exception: pass\n"
        "assert not hasattr(nearest_neighbor_test, '__wrapped__')\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
