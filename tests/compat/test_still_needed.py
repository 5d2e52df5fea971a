"""Each test here fails on the day when its shim can be deleted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vissl_swav import compat

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

EXPECTED = {
    "torch_six": "No module named 'torch._six'",
    "kinetics400": "cannot import name 'Kinetics400'",
    "removed_names": "MutableMapping",
    "checkpoint_loading": "AttrDict",
    "resume": "/None",
    "checkpoint_writing": "half a file has the name",
    "position": "starts at step -2",
    "schedule": "epoch 0 at 0.25",
    "options": "weight decay 0.5",
    "hooks": "no hook gets its state",
    "waiting_state": "the teacher is lost",
    "apex_identity": "imports apex",
    "larc": "Apex needed for LARC",
    "sync_bn": "name 'apex' is not defined",
    "cpu_batch_norm": "SyncBatchNorm expected input tensor",
    "amp": "Apex is not available",
    "cpu_extraction": "MACHINE.DEVICE = gpu",
    "cpu_tools": "cuda",
    "low_shot": "images_data_file",
    "cpu_retrieval": "cuda",
    "local_copies": "too many values to unpack",
    "environment_report": "not named",
}
# Symptoms of shims that go by another name, and shims with a test of their own below.
SHIM_OF = {
    **{"position": "resumed_state", "schedule": "resumed_state"},
    **{"options": "resumed_state", "hooks": "resumed_state", "low_shot": "cpu_tools"},
}
BELOW = {"numpy_scalars", "torchvision_ops", "package_resources"}


def test_every_shim_is_asked():
    asked = {SHIM_OF.get(name, name) for name in EXPECTED}
    assert asked | BELOW == set(compat.SHIMS)


@pytest.fixture(scope="module")
def symptoms(host):
    environment = {
        **os.environ,
        "VISSL_SWAV_AUTO": "0",
        "PYTHONPATH": str(ROOT),
    }
    run = subprocess.run(
        [sys.executable, str(HERE / "without_shims.py")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("shim", EXPECTED)
def test_the_host_still_fails_without(symptoms, shim):
    from vissl_swav.compat.apex_identity import is_nvidia_apex

    if shim in ("larc", "sync_bn", "amp") and is_nvidia_apex():
        pytest.skip("NVIDIA apex is installed: the shim stands aside")
    assert EXPECTED[shim] in (symptoms[shim] or "no symptom: delete the shim")


def test_numpy_still_refuses_one_element_for_a_number(symptoms):
    numpy = pytest.importorskip("numpy")
    if tuple(map(int, numpy.__version__.split(".")[:2])) < (2, 4):
        pytest.skip("this numpy only warns")
    assert "Error" in (symptoms["numpy_scalars"] or "no symptom: delete the shim")


def test_a_mismatched_torchvision_still_fails(symptoms):
    if symptoms["pair_matches"]:
        pytest.skip("torch and torchvision match here")
    assert "torchvision::nms" in (symptoms["torchvision_ops"] or "no symptom")


def test_pkg_resources_is_still_missing(symptoms):
    from importlib.metadata import PackageNotFoundError, version

    try:
        major = int(version("setuptools").split(".")[0])
    except PackageNotFoundError:
        major = 81
    if major < 81:
        pytest.skip("this setuptools has pkg_resources")
    assert "No module named 'pkg_resources'" in (symptoms["pkg_resources"] or "")
