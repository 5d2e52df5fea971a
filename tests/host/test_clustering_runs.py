"""Runs of `deepcluster_v2` and `sela_v2` in the host's trainer."""

import json
import shutil

import host_runs
import pytest
import torch

METHODS = ["deepcluster_v2", "sela_v2"]
TWO_HEADS = (
    "config.MODEL.HEAD.PARAMS=[[swav_head,{dims:[16,16,8],use_bn:true,"
    "num_clusters:[12,5]}]]"
)


@pytest.fixture
def images(tmp_path):
    return host_runs.make_images(tmp_path / "images")


def run(images, folder, method, *extra, **settings):
    arguments = host_runs.overrides(
        images, folder, TWO_HEADS, *extra, loss=method, **settings
    )
    return host_runs.train(*arguments)


def steps(folder):
    return [(line["step"], line["loss"]) for line in host_runs.lines(folder)]


def assignments(folder):
    text = (folder / "assignments.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def loss_state(file):
    return torch.load(file, weights_only=False, map_location="cpu")["loss"]


# On two and three processes by default: test_exact_resume.
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_resume_equals_no_interruption(images, tmp_path, method, processes):
    """From the middle of an epoch and from its end, losses and state bit for bit."""
    extra = ["config.CHECKPOINT.CHECKPOINT_FREQUENCY=1"]
    # With checkpoints in mid-epoch the host resumes from those alone.
    often = "config.CHECKPOINT.CHECKPOINT_ITER_FREQUENCY=4"
    whole = tmp_path / "whole"
    run(images, whole, method, often, *extra, epochs=3, processes=processes)
    assert [line["epoch"] for line in assignments(whole)] == [0, 1, 2]
    for name, done, more in (("model_iteration4", 4, [often]), ("model_phase1", 6, [])):
        part = tmp_path / name
        part.mkdir()
        for file in (f"{name}.torch", "train_config.yaml"):
            shutil.copy(whole / file, part)
        run(images, part, method, *more, *extra, epochs=3, processes=processes)
        assert steps(part) == steps(whole)[done:]
        # Labels found before the interruption are not sought again.
        assert [line["epoch"] for line in assignments(part)] == [2]
        last = "model_final_checkpoint_phase2.torch"
        states = loss_state(whole / last), loss_state(part / last)
        compared = [k for k, v in states[0].items() if torch.is_tensor(v)]
        assert {"method.bank.features", "method.labels.labels"} <= set(compared)
        for key in compared:
            assert torch.equal(states[0][key], states[1][key]), key
        others = [s["_extra_state"].get("other_ranks", []) for s in states]
        assert len(others[0]) == len(others[1]) == processes - 1
        for one, other in zip(*others, strict=True):
            assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("method", METHODS)
def test_another_number_of_processes_goes_on(images, tmp_path, method):
    """Two ranks' banks are dealt out to one, and the log says so."""
    extra = ["config.CHECKPOINT.CHECKPOINT_FREQUENCY=1"]
    run(images, tmp_path / "two", method, *extra, epochs=2, processes=2)
    one = tmp_path / "one"
    one.mkdir()
    for file in ("model_phase0.torch", "train_config.yaml"):
        shutil.copy(tmp_path / "two" / file, one)
    done = run(images, one, method, *extra, epochs=2, processes=1)
    assert "bank of 2 ranks was dealt out to 1" in done.stdout + done.stderr
    assert [step for step, _ in steps(one)] == [4, 5, 6]
    (line,) = assignments(one)
    assert line["epoch"] == 1
    assert [head["labelled"] for head in line["heads"]] == [48, 48]
    state = loss_state(one / "model_final_checkpoint_phase1.torch")
    assert int(state["method.bank.num_rows"]) == 48


@pytest.mark.parametrize("method", METHODS)
def test_one_crop_test_phases_and_uneven_batches(images, tmp_path, method):
    """V = 1; 48 images in batches of 20; the test set is larger than the training set.

    Test phases neither assign nor write the bank, and the bank is as large as the
    training set, not as the test set. No test image has a label: its loss is 0.
    """
    more = host_runs.make_images(tmp_path / "more", per_class=40)
    run(
        images,
        tmp_path / "run",
        method,
        "config.DATA.TRAIN.TRANSFORMS=[{name:MultiCrop,size_crops:[24],num_crops:[1],"
        "crop_scales:[[0.3,1.0]]}]",
        "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=20",
        "config.DATA.TRAIN.DROP_LAST=false",
        "config.TEST_MODEL=true",
        f"config.DATA.TEST.DATA_PATHS=[{more}]",
        "config.DATA.TEST.DATA_SOURCES=[disk_folder]",
        "config.DATA.TEST.BATCHSIZE_PER_REPLICA=8",
        "config.DATA.TEST.TRANSFORMS=[{name:MultiCrop,size_crops:[24],num_crops:[1],"
        "crop_scales:[[0.3,1.0]]}]",
        "config.DATA.TEST.COLLATE_FUNCTION=multi_crop_collator",
        epochs=2,
    )
    assert len(steps(tmp_path / "run")) == 6
    assert [line["epoch"] for line in assignments(tmp_path / "run")] == [0, 1]
    state = loss_state(tmp_path / "run" / "checkpoint.torch")
    assert state["method.bank.features"].shape == (1, 48, 8)
    assert sorted(state["method.bank.index"].tolist()) == list(range(48))
    # One write a training batch: three of the filling pass, three an epoch.
    assert int(state["method.bank.num_writes"]) == 9


def test_the_centroids_are_the_prototypes_and_stay(images, tmp_path):
    run(images, tmp_path, "deepcluster_v2", epochs=1)
    state = torch.load(tmp_path / "checkpoint.torch", weights_only=False)
    head = state["classy_state_dict"]["base_model"]["model"]["heads"]
    labels = state["loss"]["method.labels.labels"][0, :, 0]
    weight = head["0.prototypes0.weight"]
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(12))
    # The filling pass gave the labels: each centroid is the direction of some images.
    assert set(labels.tolist()) <= set(range(12)) and len(set(labels.tolist())) > 1
    optimizer = state["classy_state_dict"]["optimizer"]["optim"]
    trained = len(optimizer["state"])
    held = sum(len(group["params"]) for group in optimizer["param_groups"])
    assert held - trained == 2, "the two sets of centroids get no gradient"


def test_labels_every_second_epoch(images, tmp_path):
    every = "config.LOSS.sela_v2.assign_every_epochs=2"
    run(images, tmp_path, "sela_v2", every, epochs=4)
    assert [line["epoch"] for line in assignments(tmp_path)] == [0, 2]


def test_the_checkpoint_opens_for_an_evaluation(images, tmp_path):
    """By the host's own extraction, from a checkpoint of two ranks."""
    run(images, tmp_path / "run", "sela_v2", epochs=1, processes=2)
    weights = tmp_path / "run" / "model_final_checkpoint_phase0.torch"
    host_runs.train(
        "config=benchmark/knn/small_images",
        "engine_name=extract_features",
        f"config.DATA.TRAIN.DATA_PATHS=[{images}]",
        f"config.DATA.TEST.DATA_PATHS=[{images}]",
        "config.MODEL.TRUNK.RESNET_SMALL.WIDTH=2",
        f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={weights}",
        f"config.CHECKPOINT.DIR={tmp_path / 'features'}",
    )
    assert list((tmp_path / "features").glob("*_test_res5avg_features.npy"))


def test_under_autocast_the_bank_holds_unit_rows(images, tmp_path):
    """bfloat16, in the filling pass as in the steps."""
    run(
        images,
        tmp_path,
        "deepcluster_v2",
        "config.MODEL.AMP_PARAMS.USE_AMP=true",
        "config.MODEL.AMP_PARAMS.AMP_TYPE=pytorch",
        "++config.MODEL.AMP_PARAMS.AMP_DTYPE=bfloat16",
        epochs=1,
    )
    features = loss_state(tmp_path / "checkpoint.torch")["method.bank.features"]
    lengths = features.norm(dim=2)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert all(0 < loss < 10 for _, loss in steps(tmp_path))
