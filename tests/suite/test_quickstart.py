"""The main job, on a user's folder of a few images and on mistakes."""

import functools
import json

import host_runs
import pytest
import torch
import yaml

from vissl_swav import cli
from vissl_swav.data import embedded, folders
from vissl_swav.suite import job, stage
from vissl_swav.suite import quickstart as module

# Neither hydra's grammar nor rich's markup takes such a name as it is.
AWKWARD = "it's a 1st, b=[/b] {x} $5 (1)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`train/` and `val/` with two classes, 75 and 20 images each."""
    root = tmp_path_factory.mktemp("photos") / AWKWARD
    return make_splits(root, per_class=75, test_per_class=20)


def make_splits(root, *, per_class=20, test_per_class=2):
    host_runs.make_images(root / "train", classes=2, per_class=per_class)
    host_runs.make_images(root / "val", classes=2, per_class=test_per_class, seed=1)
    return root


def quickstart(out, *arguments):
    return cli.main(["quickstart", "--out", str(out), *map(str, arguments)])


def said(capsys):
    return " ".join(capsys.readouterr().err.split())


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def finished(host, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / AWKWARD
    assert quickstart(out, "--data", folder) == 0
    return out


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", ["deepcluster_v2", "sela_v2"])
def test_the_other_methods(host, folder, tmp_path, method):
    assert quickstart(tmp_path / "out", "--data", folder, "--method", method) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(results["rows"]) == {method, "random trunk"}
    assert results["rows"][method]["knn_20"] == 100
    lines = (tmp_path / "out" / "pretrain" / "assignments.jsonl").read_text()
    assert len(lines.splitlines()) == 14
    assert (tmp_path / "out" / "curves.png").stat().st_size > 5000


@pytest.mark.timeout(600)
def test_results_and_what_they_come_from(finished, folder):
    results = json.loads((finished / "results.json").read_text())
    assert results["num_classes"] == 2 and results["num_train"] == 150
    assert results["num_test"] == 40
    assert set(results["rows"]) == {"swav", "random trunk"}
    # The two classes differ in brightness: any trunk tells them apart.
    for row in results["rows"].values():
        assert row["knn_20"] == 100 and row["linear"] > 90 and row["knn_200"] > 50
    assert "random trunk" in (finished / "table" / "report.html").read_text()
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
        np.load(next((finished / "table" / "rows").glob(pattern)))
        for pattern in (
            "swav/features-*/*_train_*features.npy",
            "random*/features-*/*_train_*features.npy",
        )
    ]
    assert not np.allclose(*features)


def test_a_second_call_runs_nothing_again(finished, folder, capsys):
    written = (finished, finished / "table")
    kept = {p: t for p, t in stamps(finished).items() if p.parent not in written}
    assert quickstart(finished, "--data", folder) == 0
    after = stamps(finished)
    assert {p: after[p] for p in kept if p.is_file()} == {
        p: t for p, t in kept.items() if p.is_file()
    }
    table = capsys.readouterr().out
    assert "random trunk" in table and "150 training and 40 test images" in table


def test_another_job_does_not_enter_the_folder(finished, folder, capsys):
    before = stamps(finished)
    assert quickstart(finished, "--data", folder, "--seed", "1") == 2
    assert "holds another quickstart" in said(capsys)
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
    assert "test/ or val/" in said(capsys)


def test_fewer_images_than_a_batch(host, tmp_path, capsys):
    photos = make_splits(tmp_path / "photos", per_class=5)
    assert quickstart(tmp_path / "out", "--data", photos) == 2
    words = "train holds 10 images, fewer than one batch of 32. Add images"
    assert words in said(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "shared"),
    [
        ("pretrain/swav/quickstart", "pretrain/swav/quickstart"),
        ("pretrain/deepcluster_v2/quickstart", "pretrain/swav/quickstart"),
        ("pretrain/sela_v2/quickstart", "pretrain/swav/quickstart"),
    ],
)
def test_the_batch_is_the_one_of_the_run(host, config, shared):
    from vissl_swav.host import launch

    _, cfg = launch.compose([f"config={config}"])
    batch = cfg.DATA.TRAIN.BATCHSIZE_PER_REPLICA * cfg.DISTRIBUTED.NUM_PROC_PER_NODE
    assert job.batch_of(shared) == batch


def test_classes_of_one_split_only(host, tmp_path, capsys):
    photos = make_splits(tmp_path / "photos")
    (photos / "val" / "class0").rename(photos / "val" / "class9")
    assert quickstart(tmp_path / "out", "--data", photos) == 2
    message = said(capsys)
    assert "train has class0; only" in message and "val has class9" in message
    assert not (tmp_path / "out").exists()


def test_a_path_that_no_config_can_hold(host, tmp_path, capsys):
    for arguments in (("--data", "${x}"), ("--out", tmp_path / "${x}")):
        assert quickstart(tmp_path / "out", *arguments) == 2
        assert "${x} has ${ in it" in said(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_the_users_is_not_written_to(host, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("precious")
    assert quickstart(tmp_path) == 2
    assert "not a quickstart's folder" in said(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("inside", ["data/photo.jpg", "subset/photo.jpg", "cifar/x"])
def test_nor_one_that_looks_like_a_quickstarts(host, tmp_path, capsys, inside):
    (tmp_path / inside).parent.mkdir()
    (tmp_path / inside).write_text("precious")
    before = stamps(tmp_path)
    assert quickstart(tmp_path, "--data", "cifar10") == 2
    assert "not a quickstart's folder" in said(capsys)
    assert stamps(tmp_path) == before


# The exit code of a run that got past its data, below.
PAST_THE_DATA = 7


@pytest.fixture
def no_training(host, monkeypatch):
    """Ends the job where its data is there; the embedded data set is a small one."""

    def stop(*_):
        raise stage.StageFailed("no training here", PAST_THE_DATA)

    build = functools.partial(embedded.build, num_train=40, num_test=10)
    monkeypatch.setattr(embedded, "build", build)
    monkeypatch.setattr(module, "_pretrain", stop)


@pytest.fixture
def no_network(monkeypatch):
    import torchvision.datasets

    def unreachable(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", unreachable)


def test_a_mistake_does_not_take_the_folder(no_training, tmp_path, capsys):
    photos, out = make_splits(tmp_path / "photos"), tmp_path / "out"
    broken = make_splits(tmp_path / "broken")
    (broken / "val" / "class1" / "0.png").write_bytes(b"")
    for data in (tmp_path / "typo", broken):
        assert quickstart(out, "--data", data) == 2
    assert not out.exists()
    assert quickstart(out, "--data", photos) == PAST_THE_DATA
    assert json.loads((out / "quickstart.json").read_text())["data"] == str(photos)
    # Now it is a started job's.
    capsys.readouterr()
    assert quickstart(out) == quickstart(out, "--data", tmp_path / "typo") == 2
    assert said(capsys).count("holds another quickstart") == 2
    assert quickstart(out, "--data", photos) == PAST_THE_DATA


def test_data_that_was_broken_off_does_not_block(no_training, tmp_path):
    (tmp_path / ".data-x1" / "train").mkdir(parents=True)
    embedded.build(tmp_path / "data")
    assert quickstart(tmp_path, "--data", tmp_path / "typo") == 2
    assert quickstart(tmp_path) == PAST_THE_DATA


def test_cifar10_without_a_network(no_training, no_network, tmp_path, capsys):
    """It says what to do, and each of its cures works in the same folder."""
    out, plain = tmp_path / "out", tmp_path / "plain"
    for folder in (out, plain):
        assert quickstart(folder, "--data", "cifar10") == 2
        message = said(capsys)
        assert "could not be downloaded" in message
        assert f"make quickstart DATA={folder / 'cifar10'}`" in message
    assert quickstart(plain) == PAST_THE_DATA
    make_splits(out / "cifar10").joinpath("val").rename(out / "cifar10" / "test")
    assert quickstart(out, "--data", out / "cifar10") == PAST_THE_DATA


def test_cifar10_put_there_by_hand_is_taken(no_training, no_network, tmp_path):
    make_splits(tmp_path / "cifar10").joinpath("val").rename(tmp_path / "cifar10/test")
    assert quickstart(tmp_path, "--data", "cifar10") == PAST_THE_DATA


def test_a_rare_class_does_not_shrink_the_others(no_training, tmp_path, monkeypatch):
    monkeypatch.setattr(job, "MOST_TRAIN", 61)
    photos, out = make_splits(tmp_path / "photos", per_class=40), tmp_path / "out"
    for split, count in (("train", 5), ("val", 1)):
        host_runs.make_images(tmp_path / split, classes=1, per_class=count)
        (tmp_path / split / "class0").rename(photos / split / "rare")
    assert quickstart(out, "--data", photos) == PAST_THE_DATA
    assert {
        name: len(images)
        for name, images in folders.list_images(out / "subset" / "train").items()
    } == {"class0": 20, "class1": 20, "rare": 5}
    assert not (out / "subset" / "test").exists(), "few enough to be taken whole"
