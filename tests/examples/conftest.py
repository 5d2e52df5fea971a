"""What the tests of the examples start from."""

import importlib
import warnings

import pytest
from example_programs import EXAMPLES

from vissl_swav.data import build

NEEDS = {
    "timm_trunks": "timm",
    "hugging_face_data": "datasets",
    "lightly_swav": "lightly",
    "lightly_deepcluster_v2": "lightly",
}


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder of 40 training and 20 test images."""
    return build(tmp_path_factory.mktemp("data") / "set", num_train=40, num_test=20)


@pytest.fixture
def example(monkeypatch, tmp_path):
    """Name of an example to its module; skips where an extra is missing."""
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def load(name):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if name in NEEDS:
                pytest.importorskip(NEEDS[name], reason="pip install vissl_swav[dev]")
            module = importlib.import_module(name)
        if name == "hugging_face_data":
            import datasets

            monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
        return module

    return load
