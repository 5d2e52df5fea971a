"""`vissl-swav knn`: from a folder of features and from a config."""

import json
import os
from types import SimpleNamespace

import feature_files
import host_runs
import numpy as np
import pytest
import torch

from vissl_swav.data.errors import DataError
from vissl_swav.suite import feature_command, features, knn
from vissl_swav.suite.features import FeatureSet


@pytest.fixture
def folder(tmp_path):
    """90 training and 40 test images of 3 classes; every ninth has no label."""
    for seed, (split, count) in enumerate((("train", 90), ("test", 40))):
        rows, targets = feature_files.blobs(count, 3, noise=1.5, seed=seed)
        targets[::9] = -1
        feature_files.write(tmp_path, split, rows, targets, ranks=2)
    return tmp_path


def _sets(folder):
    return [features.load(folder, split, "res5avg") for split in ("train", "test")]


def _top1_by_loops(train, test, k, temperature):
    """Per cent in float64, one pair of images at a time."""
    right = counted = 0
    for row, label in zip(test.features.double(), test.labels.tolist(), strict=True):
        pairs = sorted(
            (
                (float(torch.cosine_similarity(row, other, dim=0)), int(of_other))
                for other, of_other in zip(
                    train.features.double(), train.labels, strict=True
                )
                if of_other >= 0
            ),
            reverse=True,
        )
        votes = dict.fromkeys(range(3), 0.0)
        for similarity, of_other in pairs[:k]:
            votes[of_other] += np.exp(similarity / temperature)
        if label >= 0:
            counted += 1
            right += max(votes, key=lambda number: votes[number]) == label
    return 100.0 * right / counted


def test_every_k_and_temperature_as_by_loops(folder):
    train, test = _sets(folder)
    found = knn.evaluate(
        train, test, num_neighbors=(1, 7, 30), temperatures=(0.05, 1.0), device="cpu"
    )
    assert [(r.k, r.temperature) for r in found] == [
        (k, t) for k in (1, 7, 30) for t in (0.05, 1.0)
    ]
    for result in found:
        wanted = _top1_by_loops(train, test, result.k, result.temperature)
        assert result.top1 == pytest.approx(wanted)
        assert result.top5 == 100.0 and result.used == result.k
    assert len({result.top1 for result in found}) > 1


def test_files_give_what_memory_gives(folder):
    stored = [features.open_stored(folder, s, "res5avg") for s in ("train", "test")]
    assert knn.evaluate(*stored, device="cpu") == knn.evaluate(
        *_sets(folder), device="cpu"
    )


def test_length_counts_where_it_is_wanted():
    train = FeatureSet(torch.tensor([[1.0, 0.0], [9.0, 9.0]]), torch.tensor([0, 1]))
    test = FeatureSet(torch.tensor([[2.0, 0.0]]), torch.tensor([0]))
    settings = {"num_neighbors": [1], "device": "cpu"}
    assert knn.evaluate(train, test, **settings)[0].top1 == 100.0
    inner = knn.evaluate(train, test, unit_length=False, **settings)
    assert inner[0].top1 == 0.0


def test_labels_that_do_not_fit_are_refused(folder):
    train, test = _sets(folder)
    several = FeatureSet(train.features, torch.zeros(90, 3).long())
    with pytest.raises(DataError, match="one class number an image"):
        knn.evaluate(several, test)
    none = FeatureSet(test.features, torch.full((40,), -1))
    with pytest.raises(DataError, match="no image with a label"):
        knn.evaluate(train, none)


def test_the_command_on_a_folder(folder, capsys):
    given = ("--k", "1,20,200", "--temperature", "0.07,0.1")
    assert feature_files.command("knn", folder, *given) == 0
    written = json.loads((folder / "knn.json").read_text())
    found = written["layers"]["res5avg"]
    assert (found["train_unlabelled"], found["test_unlabelled"]) == (10, 5)
    wanted = knn.evaluate(
        *_sets(folder), num_neighbors=(1, 20, 200), temperatures=(0.07, 0.1)
    )
    assert found["results"] == [result._asdict() for result in wanted]
    printed = capsys.readouterr()
    for result in wanted:
        assert f"{result.top1:.2f}" in printed.out
    warning = "200 neighbours, but 80 labelled training images: 80 used"
    assert warning in printed.err
    assert "10 training and 5 test images have no label" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}", "--layer", "res4"], "which holds res5avg"),
        (["{}", "more"], "wanted a folder of features, or a config"),
        (["{}/none"], "is no folder"),
        (["{}", "--out", "{}/none/knn.json"], "there is no folder"),
        (["{}", "--out", "{}"], "is a folder; wanted the name of a file"),
        (["{}", "--device", "tpu"], "tpu"),
        (["{}", "--device", "meta"], "wanted auto, cpu or cuda"),
        (["{}", "--device", "mps"], "wanted auto, cpu or cuda"),
    ],
)
def test_bad_input_ends_with_a_message(folder, capsys, arguments, message):
    given = [argument.format(folder) for argument in arguments]
    assert feature_files.command("knn", *given) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not (folder / "knn.json").exists()


def test_a_bad_name_is_told_before_the_work(folder, tmp_path, capsys, monkeypatch):
    def extract(*_):
        raise AssertionError("the features were extracted first")

    monkeypatch.setattr(feature_command, "_extract", extract)
    before = sorted(folder.iterdir())
    assert feature_files.command("knn", "config=any", "--out", folder) == 2
    assert "is a folder" in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}*"))
    # As /dev/null and /dev/stdout are not: writing would put a file in their place.
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    assert feature_files.command("knn", folder, "--out", pipe) == 2
    assert "is no plain file" in capsys.readouterr().err and pipe.is_fifo()
    monkeypatch.setenv("HOME", str(folder))
    assert feature_files.command("knn", folder, "--k", 3, "--out", "~/mine.json") == 0
    assert json.loads((folder / "mine.json").read_text())["command"] == "knn"


@pytest.mark.parametrize(
    ("given", "of_config", "wanted"),
    [
        ([], True, "cosine"),
        ([], False, "inner product"),
        (["--inner-product"], True, "inner product"),
        (["--inner-product"], False, "inner product"),
    ],
)
def test_the_command_line_goes_before_the_config(
    folder, monkeypatch, given, of_config, wanted
):
    settings = SimpleNamespace(
        num_neighbors=(3,), temperatures=(0.1,), unit_length=of_config
    )
    extracted = (folder, ["res5avg"], settings)
    monkeypatch.setattr(feature_command, "_extract", lambda *_: extracted)
    assert feature_files.command("knn", "config=any", "--k", 5, *given) == 0
    found = json.loads((folder / "knn.json").read_text())["layers"]["res5avg"]
    assert found["similarity"] == wanted
    assert [result["k"] for result in found["results"]] == [5]


def test_features_that_are_not_finite_end_with_a_message(folder, capsys):
    file = folder / "rank0_chunk0_train_res5avg_features.npy"
    rows = np.load(file)
    rows[0, 0] = np.nan
    rows[2, 0] = np.nan
    np.save(file, rows)
    assert feature_files.command("knn", folder, "--k", 80) == 2
    assert "not finite" in capsys.readouterr().err


def test_a_folder_needs_no_vissl_and_a_config_says_so(folder, capsys, monkeypatch):
    from vissl_swav import train

    monkeypatch.setattr(train, "have_host", lambda: False)
    assert feature_files.command("knn", folder, "--k", 3) == 0
    assert feature_files.command("knn", "config=benchmark/knn/imagenet") == 2
    assert "pip install --no-deps vissl==0.1.6" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "1,,2", "x", "1.5"])
def test_numbers_that_are_none_are_refused(capsys, text):
    with pytest.raises(SystemExit):
        feature_files.command("knn", "folder", "--k", text)
    assert "whole number" in capsys.readouterr().err


def _config(images, out, *more):
    return [
        "config=benchmark/knn/small_images",
        f"config.DATA.TRAIN.DATA_PATHS=[{images}]",
        f"config.DATA.TEST.DATA_PATHS=[{images}]",
        "config.MODEL.TRUNK.RESNET_SMALL.WIDTH=4",
        f"config.CHECKPOINT.DIR={out}",
        *more,
    ]


def test_the_hosts_keys_take_lists(host, tmp_path):
    from vissl_swav.host import launch
    from vissl_swav.host.errors import StartError
    from vissl_swav.host.settings import frozen_features

    def settings(*more):
        _, cfg = launch.compose(_config(tmp_path, tmp_path, *more))
        frozen_features.extraction_checks(cfg)
        return frozen_features.feature_settings(cfg)

    plain = settings()
    assert (plain.num_neighbors, plain.temperatures) == ((20,), (0.1,))
    assert plain.unit_length and plain.costs == (0.1, 0.01) and plain.folds == 3
    more = settings(
        "config.NEAREST_NEIGHBOR.TOPK=[20,200]",
        "config.NEAREST_NEIGHBOR.SIGMA=[0.07,0.1]",
        "config.SVM.costs.base=2.0",
        "config.SVM.costs.power_range=[1,3]",
    )
    assert more.num_neighbors == (20, 200) and more.temperatures == (0.07, 0.1)
    assert more.costs == (0.1, 0.01, 2.0, 4.0)
    for override, message in (
        ("config.NEAREST_NEIGHBOR.TOPK=[20.5]", "wanted whole numbers"),
        ("config.NEAREST_NEIGHBOR.SIGMA=[hot]", "a number or a list"),
        ("config.TEST_MODEL=false", "TEST_MODEL=True"),
        ("config.MODEL.FEATURE_EVAL_SETTINGS.EVAL_MODE_ON=false", "EVAL_MODE_ON"),
    ):
        with pytest.raises(StartError, match=message):
            settings(override)


@pytest.mark.slow
def test_the_command_on_a_config(host, tmp_path, capsys):
    images = host_runs.make_images(tmp_path / "images", per_class=6)
    out = tmp_path / "run"
    lists = ["config.NEAREST_NEIGHBOR.TOPK=[1,3]", "config.NEAREST_NEIGHBOR.SIGMA=0.5"]
    assert feature_files.command("knn", *_config(images, out, *lists)) == 0
    found = json.loads((out / "knn.json").read_text())["layers"]["res5avg"]
    # The test images are the training images, each its own nearest.
    by_k = {(r["k"], r["temperature"]): r["top1"] for r in found["results"]}
    assert list(by_k) == [(1, 0.5), (3, 0.5)] and by_k[1, 0.5] == 100.0
    assert "100.00" in capsys.readouterr().out
    broken = _config(images, tmp_path / "other", "config.MACHINE.DEVICE=gpu")
    assert feature_files.command("knn", *broken) in (1, 2)
    assert "log.txt" in capsys.readouterr().err
