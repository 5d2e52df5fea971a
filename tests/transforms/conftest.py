import importlib

import pytest

import vissl_swav.compat


def reference_module(name):
    """A torchvision module; its wheel may lack compiled ops, which compat mends."""
    pytest.importorskip("torch")
    vissl_swav.compat.apply()
    return importlib.import_module(name)


@pytest.fixture(scope="session")
def functional():
    return reference_module("torchvision.transforms.functional")


@pytest.fixture(scope="session")
def torchvision_transforms():
    return reference_module("torchvision.transforms")
