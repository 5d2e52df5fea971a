"""What must be there before the host: names and schemas that today's stack dropped."""

import collections
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from vissl_swav.compat import (
    kinetics400,
    numpy_scalars,
    package_resources,
    removed_names,
    torch_six,
    torchvision_ops,
)
from vissl_swav.compat.module_proxy import ModuleProxy, overlay

ROOT = Path(__file__).resolve().parents[2]


def test_torchvision_imports_and_its_fake_kernels_know_nms():
    program = (
        "from vissl_swav.compat import torchvision_ops as shim\n"
        "missing = shim.needed()\n"
        "shim.apply(); shim.apply()\n"
        "import torch, torchvision\n"
        "assert hasattr(torch.ops.torchvision, 'nms')\n"
        "import torchvision.transforms.functional as f\n"
        "assert f.hflip(torch.eye(2)[None]).sum() == 2\n"
        "assert bool(shim._declared) == missing, (shim._declared, missing)\n"
        "assert not shim.needed()\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr


def test_nothing_is_declared_where_the_operators_are_there(monkeypatch):
    declared = []
    monkeypatch.setattr(torchvision_ops, "_declared", declared)
    monkeypatch.setattr(torchvision_ops, "operators_are_missing", lambda: False)
    torchvision_ops.declare_missing_schemas()
    assert declared == []


def test_torch_six_has_the_names_of_its_last_day(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch._six", raising=False)
    if not torch_six.needed():
        pytest.skip("this torch has torch._six")
    torch_six.apply()
    six = sys.modules["torch._six"]
    assert isinstance("text", six.string_classes)
    assert isinstance([], six.container_abcs.Sequence)
    assert six.inf == float("inf")
    assert not torch_six.needed()


@pytest.fixture
def stand_in(monkeypatch):
    monkeypatch.delitem(sys.modules, "pkg_resources", raising=False)
    monkeypatch.setattr(package_resources, "needed", lambda: True)
    package_resources.apply()
    return sys.modules["pkg_resources"]


def test_pkg_resources_finds_files_of_packages_and_modules(stand_in):
    import json

    folder = Path(json.__file__).parent
    assert stand_in.resource_filename("json", "a/b.c") == str(folder / "a" / "b.c")
    assert stand_in.resource_isdir("json", "")
    assert "decoder.py" in stand_in.resource_listdir("json", "")
    # A plain module: beside its file, as the real one does.
    beside = stand_in.resource_filename("json.decoder", "x")
    assert beside == str(folder / "x")


def test_pkg_resources_knows_distributions(stand_in):
    assert stand_in.get_distribution("pytest").version == pytest.__version__
    with pytest.raises(stand_in.DistributionNotFound):
        stand_in.get_distribution("no-such-distribution-anywhere")


def test_pkg_resources_says_what_it_lacks(stand_in):
    with pytest.raises(AttributeError, match="iter_entry_points.*setuptools<81"):
        _ = stand_in.iter_entry_points


def test_the_real_pkg_resources_is_left_alone(monkeypatch):
    real = ModuleType("pkg_resources")
    monkeypatch.setitem(sys.modules, "pkg_resources", real)
    package_resources.apply()
    assert sys.modules["pkg_resources"] is real


def test_kinetics400_is_an_alias_only_where_it_is_missing():
    module = ModuleType("kinetics")
    module.Kinetics = object()
    kinetics400.add_alias(module)
    assert module.Kinetics400 is module.Kinetics
    old = ModuleType("kinetics")
    old.Kinetics, old.Kinetics400 = object(), object()
    kinetics400.add_alias(old)
    assert old.Kinetics400 is not old.Kinetics


def test_removed_names_are_seen_by_the_host_module_alone():
    module = ModuleType("user")
    module.np, module.collections = np, collections
    removed_names.restore_numpy_names(module)
    removed_names.restore_collections_names(module)
    assert module.np.ones(2, dtype=module.np.float).dtype == np.float64
    assert module.np.in1d([1, 2], [2]).tolist() == [False, True]
    assert isinstance({}, module.collections.MutableMapping)
    assert not hasattr(collections, "MutableMapping")
    assert "float" not in vars(np)


def test_host_evaluates_average_precision(host):
    from vissl.utils.svm_utils.evaluate import get_precision_recall

    labels = np.array([1, -1, 1, -1])
    scores = np.array([0.9, 0.2, 0.4, 0.5])
    average_precision = get_precision_recall(labels, scores)[3]
    assert isinstance(average_precision, float)
    # Recall 1/2 at precision 1, recall 1 at precision 2/3.
    assert average_precision == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_a_mean_of_one_element_is_a_number():
    module = SimpleNamespace(np=ModuleProxy(np))
    numpy_scalars.average_to_a_number(module)
    table = np.zeros((1, 2))
    table[0][1] = module.np.mean(np.array([[1.0], [3.0]]), axis=0)
    assert table[0][1] == 2.0
    assert module.np.mean(np.eye(2), axis=0).tolist() == [0.5, 0.5]


def test_overlays_add_up_and_leave_the_target_alone():
    module = SimpleNamespace(np=np)
    overlay(module, "np", first=1)
    overlay(module, "np", second=2)
    assert (module.np.first, module.np.second) == (1, 2)
    assert module.np.pi == np.pi
    assert not hasattr(np, "first")
    assert {"first", "pi"} <= set(dir(module.np))
