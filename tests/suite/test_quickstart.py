"""The main job, on a user's folder of a few images and on mistakes."""

import json

import host_runs
import pytest
import torch
import yaml

from vissl_swav import cli


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`train/` and `val/` with three classes, 50 and 20 images each."""
    root = tmp_path_factory.mktemp("photos")
    host_runs.make_images(root / "train", classes=2, per_class=75)
    host_runs.make_images(root / "val", classes=2, per_class=20, seed=1)
    return root


def quickstart(out, *arguments):
    return cli.main(["quickstart", "--out", str(out), *map(str, arguments)])


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def finished(host, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "quick"
    assert quickstart(out, "--data", folder) == 0
    return out


@pytest.mark.timeout(600)
def test_results_and_what_they_come_from(finished, folder):
    results = json.loads((finished / "results.json").read_text())
    assert results["num_classes"] == 2 and results["num_train"] == 150
    assert set(results["rows"]) == {"swav", "random trunk"}
    # The two classes differ in brightness: any trunk tells them apart.
    for row in results["rows"].values():
        assert row["knn_20"] == 100 and row["linear"] > 90
    run = finished / "pretrain"
    config = yaml.safe_load((run / "train_config.yaml").read_text())
    assert config["DATA"]["TRAIN"]["DATA_PATHS"] == [str(folder / "train")]
    assert results["final_loss"] == host_runs.losses(run)[-1]
    assert (finished / "curves.png").read_bytes().startswith(b"\x89PNG")
    saved = torch.load(
        next(run.glob("model_final_checkpoint_phase*.torch")), weights_only=False
    )
    assert "classy_state_dict" in saved


def test_the_two_trunks_are_not_the_same(finished):
    """The evaluation of the pretrained trunk really loads it."""
    import numpy as np

    features = [
        np.load(next((finished / trunk / "features").glob("*_train_*features.npy")))
        for trunk in ("swav", "random trunk")
    ]
    assert not np.allclose(*features)


def test_a_second_call_runs_nothing_again(finished, folder, capsys):
    kept = {p: t for p, t in stamps(finished).items() if p.parent != finished}
    assert quickstart(finished, "--data", folder) == 0
    after = stamps(finished)
    assert {p: after[p] for p in kept if p.is_file()} == {
        p: t for p, t in kept.items() if p.is_file()
    }
    assert "random trunk" in capsys.readouterr().out


def test_another_job_does_not_enter_the_folder(finished, folder, capsys):
    before = stamps(finished)
    assert quickstart(finished, "--data", folder, "--seed", "1") == 2
    assert "holds another quickstart" in capsys.readouterr().err.replace("\n", " ")
    assert stamps(finished) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "simsiam"], ["simsiam", "swav"]),
        (["--data", "nowhere/at/all"], ["nowhere/at/all"]),
    ],
)
def test_mistakes_in_the_arguments(host, tmp_path, capsys, arguments, words):
    assert quickstart(tmp_path / "out", *arguments) == 2
    message = capsys.readouterr().err
    for word in words:
        assert word in message


def test_a_folder_without_a_test_split(host, tmp_path, capsys):
    host_runs.make_images(tmp_path / "photos" / "train", per_class=2)
    assert quickstart(tmp_path / "out", "--data", tmp_path / "photos") == 2
    assert "test/ or val/" in capsys.readouterr().err.replace("\n", " ")


def test_fewer_images_than_a_batch(host, tmp_path, capsys):
    for split in ("train", "test"):
        host_runs.make_images(tmp_path / "photos" / split, per_class=5)
    assert quickstart(tmp_path / "out", "--data", tmp_path / "photos") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "10 images" in message and "Traceback" not in message


def test_a_folder_of_the_users_is_not_written_to(host, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("precious")
    assert quickstart(tmp_path) == 2
    assert "not a quickstart's folder" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_cifar10_without_a_network_says_what_to_do(host, tmp_path, capsys, monkeypatch):
    import torchvision.datasets

    def unreachable(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", unreachable)
    assert quickstart(tmp_path / "out", "--data", "cifar10") == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "could not be downloaded" in message
    assert "make quickstart DATA=" in message
