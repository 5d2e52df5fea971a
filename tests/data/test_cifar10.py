"""CIFAR-10: an image folder where there is a network, a remedy where there is none."""

import re
import urllib.error

import numpy as np
import pytest
from PIL import Image

from vissl_swav.data import DataError, check_image_folder, find_splits
from vissl_swav.data.cifar10 import CLASSES, fetch_cifar10


class SmallCifar:
    """Stands in for torchvision's data set: 20 images, 2 a class."""

    calls: list[tuple[bool, bool]] = []

    def __init__(self, root, *, train, download):
        self.calls.append((train, download))

    def __iter__(self):
        for index in range(20):
            yield Image.new("RGB", (32, 32), (index, 0, 0)), index % 10


@pytest.fixture
def datasets(torchvision_datasets, monkeypatch):
    monkeypatch.setattr(SmallCifar, "calls", [])
    monkeypatch.setattr(torchvision_datasets, "CIFAR10", SmallCifar)


def test_it_becomes_an_image_folder(tmp_path, datasets):
    splits = find_splits(fetch_cifar10(tmp_path / "cifar10"))
    assert SmallCifar.calls == [(True, True), (False, True)]
    for split in splits:
        report = check_image_folder(split, min_images=20)
        assert report.images_per_class == dict.fromkeys(CLASSES, 2)
    with Image.open(splits.train / "cat" / "00013.png") as image:
        assert np.asarray(image)[0, 0].tolist() == [13, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["cifar10"]


def test_a_finished_folder_is_reused(tmp_path, datasets):
    folder = fetch_cifar10(tmp_path / "cifar10")
    SmallCifar.calls.clear()
    assert fetch_cifar10(folder) == folder
    assert SmallCifar.calls == []


def test_class_names_are_in_label_order():
    assert list(CLASSES) == sorted(CLASSES) and len(CLASSES) == 10


@pytest.mark.parametrize(
    "fault", [urllib.error.URLError("no route"), RuntimeError("not found or corrupted")]
)
def test_without_a_network_it_says_what_to_do(
    tmp_path, torchvision_datasets, monkeypatch, fault
):
    def fail(*_, **__):
        raise fault

    module = torchvision_datasets.cifar
    monkeypatch.setattr(module, "download_and_extract_archive", fail)
    target = tmp_path / "cifar10"
    with pytest.raises(DataError) as caught:
        fetch_cifar10(target)
    said = str(caught.value)
    assert "could not be downloaded" in said and "cs.toronto.edu" in said
    assert f"{target}/train/<class>/*.png" in said
    assert f"make quickstart DATA={target}" in said
    assert list(tmp_path.iterdir()) == [], "nothing half-written is left"


def test_an_unreachable_mirror(tmp_path, torchvision_datasets, monkeypatch):
    nowhere = "http://127.0.0.1:9/cifar-10-python.tar.gz"
    monkeypatch.setattr(torchvision_datasets.CIFAR10, "url", nowhere)
    with pytest.raises(DataError, match=re.escape("could not be downloaded (URLError")):
        fetch_cifar10(tmp_path / "cifar10")


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match="without train/ and test/"):
        fetch_cifar10(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "precious"
