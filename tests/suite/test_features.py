"""Features in files: against VISSL's own loader, and what is refused."""

import os

import feature_files
import numpy as np
import pytest
import torch

from vissl_swav.data.errors import DataError
from vissl_swav.suite import features


@pytest.mark.parametrize(("ranks", "chunks"), [(1, 1), (3, 1), (2, 3)])
@pytest.mark.parametrize("kind", ["one class", "several classes"])
def test_as_vissls_loader(host, tmp_path, ranks, chunks, kind):
    from vissl.utils.extract_features_utils import ExtractedFeaturesLoader

    made = feature_files.blobs if kind == "one class" else feature_files.scenes
    rows, targets = made(31, 4)
    rows = rows.reshape(31, 3, 2, 2)  # Not pooled: to be flattened.
    feature_files.write(tmp_path, "train", rows, targets, ranks=ranks, chunks=chunks)
    wanted = ExtractedFeaturesLoader.load_features(
        str(tmp_path), "train", "res5avg", flatten_features=True
    )
    found = features.load(tmp_path, "train", "res5avg")
    assert found.features.dtype == torch.float32 and found.labels.dtype == torch.int64
    assert np.array_equal(found.features.numpy(), wanted["features"])
    assert np.array_equal(found.labels.numpy(), wanted["targets"].squeeze())


def test_slices_of_stored_rows_are_those_of_the_whole(tmp_path):
    rows, targets = feature_files.blobs(23, 3)
    feature_files.write(tmp_path, "test", rows, targets, ranks=2, chunks=2)
    stored = features.open_stored(tmp_path, "test", "res5avg")
    assert tuple(stored.features.shape) == (23, 12)
    for part in (slice(None), slice(5, 9), slice(20, 40), slice(4, 4)):
        assert np.array_equal(stored.features[part].numpy(), rows[part])


def test_more_files_than_a_process_may_open(tmp_path):
    rows, targets = feature_files.blobs(120, 3)
    feature_files.write(tmp_path, "train", rows, targets, ranks=2, chunks=60)
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = max(map(int, os.listdir("/proc/self/fd"))) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
    try:
        found = features.load(tmp_path, "train", "res5avg")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert np.array_equal(found.features.numpy(), rows)


def test_layers_are_told_apart(tmp_path):
    for split in ("train", "test"):
        for layer in ("res5", "res5avg"):
            rows, targets = feature_files.blobs(6, 2, len(layer))
            feature_files.write(tmp_path, split, rows, targets, layer=layer)
    rows, targets = feature_files.blobs(6, 2)
    feature_files.write(tmp_path, "train", rows, targets, layer="avg")
    assert features.layers(tmp_path) == ["res5", "res5avg"]
    assert features.load(tmp_path, "train", "res5").features.shape == (6, 4)
    assert features.load(tmp_path, "train", "res5avg").features.shape == (6, 7)
    with pytest.raises(DataError, match="no test features of the layer avg"):
        features.load(tmp_path, "test", "avg")


def test_what_does_not_belong_together_is_refused(tmp_path):
    rows, targets = feature_files.blobs(8, 2)
    feature_files.write(tmp_path, "train", rows, targets, ranks=2)
    stem = tmp_path / "rank1_chunk0_train_res5avg"
    np.save(f"{stem}_targets.npy", targets[:3])
    with pytest.raises(DataError, match="4 features, 3 targets and 4 numbers"):
        features.load(tmp_path, "train", "res5avg")
    np.save(f"{stem}_targets.npy", 1 - targets[::2])
    np.save(f"{stem}_inds.npy", np.arange(8)[::2])
    with pytest.raises(DataError, match="twice, with different labels"):
        features.load(tmp_path, "train", "res5avg")
    np.save(f"{stem}_features.npy", rows[::2, :5])
    with pytest.raises(DataError, match="different shapes"):
        features.load(tmp_path, "train", "res5avg")
    (tmp_path / f"{stem.name}_targets.npy").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        features.load(tmp_path, "train", "res5avg")


def test_labels_that_are_no_whole_numbers_are_refused(tmp_path):
    rows, targets = feature_files.blobs(8, 2)
    feature_files.write(tmp_path, "train", rows, targets + 0.5)
    with pytest.raises(DataError, match="no whole numbers"):
        features.load(tmp_path, "train", "res5avg")


@pytest.mark.parametrize(
    ("kind", "array"),
    [
        ("features", np.zeros((0, 12), np.float32)),
        ("features", np.zeros((8, 0), np.float32)),
        ("features", np.float32(1.0)),
        ("features", np.full((8, 12), "a")),
        ("targets", np.int64(1)),
        ("targets", np.full((8, 1), "1")),
        ("inds", np.int64(3)),
        ("inds", np.zeros(0, np.int64)),
        ("inds", np.full(8, "x")),
    ],
)
def test_arrays_of_no_numbers_are_refused(kind, array, tmp_path, capsys):
    for split in ("train", "test"):
        feature_files.write(tmp_path, split, *feature_files.blobs(8, 2))
    np.save(tmp_path / f"rank0_chunk0_train_res5avg_{kind}.npy", array)
    with pytest.raises(DataError, match="wanted features, targets and numbers of"):
        features.load(tmp_path, "train", "res5avg")
    for command in ("knn", "svm"):
        assert feature_files.command(command, tmp_path) == 2
        assert str(array.dtype) in capsys.readouterr().err


def test_no_images_at_all_are_refused(tmp_path):
    empty = np.zeros((0, 12), np.float32), np.zeros((0, 1), np.int64)
    feature_files.write(tmp_path, "train", *empty)
    with pytest.raises(DataError, match="of one image or more"):
        features.load(tmp_path, "train", "res5avg")
    for content in (b"", b"\x93NUMPY\x01\x00v\x00{'descr': ("):
        file = tmp_path / "rank0_chunk0_train_res5avg_inds.npy"
        file.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read"):
            features.load(tmp_path, "train", "res5avg")


def test_a_folder_without_features_is_refused(tmp_path):
    with pytest.raises(DataError, match="extract_features"):
        features.layers(tmp_path)
    with pytest.raises(DataError, match="is no folder"):
        features.layers(tmp_path / "none")
    assert not features.holds_features(tmp_path)
    feature_files.write(tmp_path, "train", *feature_files.blobs(4, 2))
    assert features.holds_features(tmp_path)
    with pytest.raises(DataError, match=r"'train': \['res5avg'\], 'test': \[\]"):
        features.layers(tmp_path)


def test_accuracy_of_a_folder(tmp_path):
    for seed, split in enumerate(("train", "test")):
        rows, targets = feature_files.blobs(30, 3, noise=0.1, seed=seed)
        feature_files.write(tmp_path, split, rows, targets)
    found = features.knn_accuracy(tmp_path, "res5avg", num_neighbors=(1, 500))
    assert found == {1: 100.0, 500: 100.0}
