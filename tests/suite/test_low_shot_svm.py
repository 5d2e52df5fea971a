"""`vissl-swav low-shot-svm`: against VISSL's trainer on the same draws."""

import json

import feature_files
import numpy as np
import pytest
import torch
from svm_problems import hosts_config, hosts_trainer, sets

from vissl_swav.data.errors import DataError
from vissl_swav.suite import low_shot_svm

COSTS = [0.1, 10.0]


def _targets_of(draws, shape):
    """The host's way to write a draw down: labels with -1 where nothing was drawn."""
    targets = np.full(shape, -1, dtype=np.int32)
    for number, draw in enumerate(draws):
        targets[draw.rows, number] = draw.signs == 1
    return targets


def test_mean_average_precision_is_vissls(host, tmp_path, monkeypatch):
    from vissl.utils.svm_utils import svm_low_shot_trainer

    train, test = sets(feature_files.scenes, noise=1.2)
    samples, k_values = [1, 2, 3], [1, 4]
    config = hosts_config(
        COSTS, dataset_name="voc", sample_inds=samples, k_values=k_values
    )
    trainer = hosts_trainer(
        monkeypatch, svm_low_shot_trainer, "SVMLowShotTrainer", config, str(tmp_path)
    )
    for k in k_values:
        for sample in samples:
            draws = low_shot_svm.draw(train.labels.numpy(), k, seed=0, sample=sample)
            drawn = _targets_of(draws, tuple(train.labels.shape))
            trainer.train(train.features.double().numpy(), drawn, sample, k)
            rows = test.features.double().numpy()
            trainer.test(rows, test.labels.numpy(), sample, k)
    theirs = trainer.aggregate_stats(k_values, samples)
    found = low_shot_svm.evaluate(
        train, test, k_values=k_values, num_samples=3, costs=COSTS
    )
    assert [result.k for result in found] == k_values
    for result in found:
        wanted = theirs[f"k={result.k}"]  # Rounded to two places.
        for name in ("mean", "min", "max", "std"):
            assert getattr(result, name) == pytest.approx(wanted[name], abs=0.00501)
        of_samples = [
            100.0 * np.load(tmp_path / "res5avg" / f"test_ap_sample{s}_k{result.k}.npy")
            for s in samples
        ]
        np.testing.assert_allclose(
            result.mean_of_costs, np.mean(of_samples, axis=0).ravel(), atol=1e-6
        )
        assert result.cost == COSTS[int(np.argmax(result.mean_of_costs))]
        assert result.samples == samples and result.metric == "mean_ap"


def test_one_class_an_image_is_vissls_places_protocol(host, tmp_path, monkeypatch):
    from vissl.utils.svm_utils import svm_low_shot_trainer

    train, test = sets(feature_files.blobs, noise=1.6)
    config = hosts_config(
        COSTS, dataset_name="places205", sample_inds=[1], k_values=[3]
    )
    trainer = hosts_trainer(
        monkeypatch, svm_low_shot_trainer, "SVMLowShotTrainer", config, str(tmp_path)
    )
    rows = low_shot_svm.draw(train.labels.numpy(), 3, seed=0, sample=1)[0].rows
    drawn = train.labels.numpy()[rows][:, None]
    trainer.train(train.features.double().numpy()[rows], drawn, 1, 3)
    trainer.test(test.features.double().numpy(), test.labels.numpy()[:, None], 1, 3)
    (result,) = low_shot_svm.evaluate(
        train, test, k_values=[3], num_samples=1, costs=COSTS
    )
    theirs = 100.0 * np.load(tmp_path / "res5avg" / "test_ap_sample1_k3.npy")
    np.testing.assert_allclose(result.mean_of_costs, theirs.ravel(), atol=1e-6)


def test_a_draw_has_the_images_it_should():
    train, _ = sets(feature_files.scenes)
    labels = train.labels.numpy()
    first = low_shot_svm.draw(labels, 5, seed=0, sample=1)
    for number, (rows, signs) in enumerate(first):
        assert len(set(rows.tolist())) == len(rows) == 5 + 15
        assert (labels[rows[signs == 1], number] == 1).all() and (signs == 1).sum() == 5
        assert (labels[rows[signs == -1], number] == 0).all()
    rows = [draw.rows.tolist() for draw in first]
    for same, settings in (
        (True, {"seed": 0, "sample": 1}),
        (False, {"seed": 1, "sample": 1}),
        (False, {"seed": 0, "sample": 2}),
    ):
        drawn = low_shot_svm.draw(labels, 5, **settings)
        assert ([draw.rows.tolist() for draw in drawn] == rows) is same
    train, _ = sets(feature_files.blobs)
    train.labels[::3] = -1
    labels = train.labels.numpy()
    for number, (rows, signs) in enumerate(
        low_shot_svm.draw(labels, 7, seed=0, sample=1)
    ):
        assert np.bincount(labels[rows]).tolist() == [7, 7, 7, 7]
        assert np.array_equal(signs == 1, labels[rows] == number)


def test_too_few_images_are_told():
    train, test = sets(feature_files.scenes)
    with pytest.raises(DataError, match=r"class 0: \d+ training images are labelled"):
        low_shot_svm.evaluate(train, test, k_values=[96], costs=[1.0])
    train, test = sets(feature_files.blobs)
    with pytest.raises(DataError, match="30 training images .* with it; wanted 31"):
        low_shot_svm.evaluate(train, test, k_values=[31], costs=[1.0])
    for wrong in ({"k_values": []}, {"k_values": [0]}, {"costs": [0.0]}):
        with pytest.raises(DataError, match="all above 0"):
            low_shot_svm.evaluate(train, test, **wrong)


def test_the_command_and_processes(tmp_path, capsys):
    train, test = sets(feature_files.blobs)
    for split, images in (("train", train), ("test", test)):
        rows, labels = images.features.numpy(), images.labels.numpy()[:, None]
        feature_files.write(tmp_path, split, rows, labels)
    given = ("--k", "1,4", "--samples", 2, "--costs", "0.1,10", "--seed", 3)
    assert feature_files.command("low-shot-svm", tmp_path, *given, "--jobs", 2) == 0
    written = json.loads((tmp_path / "low-shot-svm.json").read_text())
    layer = written["layers"]["res5avg"]
    told = []
    wanted = low_shot_svm.evaluate(
        train,
        test,
        k_values=(1, 4),
        num_samples=2,
        costs=COSTS,
        seed=3,
        report=lambda *of: told.append(of),
    )
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert layer["cost_chosen_on"] == "test"
    printed = capsys.readouterr().out
    for found, result in zip(layer["results"], wanted, strict=True):
        assert found["mean_of_costs"] == result.mean_of_costs
        assert found["samples"] == [1, 2] and found["cost"] == result.cost
        assert f"{result.mean:.2f}" in printed
    assert layer["results"][0]["mean"] < layer["results"][1]["mean"]


def test_images_without_a_label_do_not_count():
    train, test = sets(feature_files.blobs)
    settings = {"k_values": [2], "num_samples": 1, "costs": [1.0]}
    kept = test._replace(features=test.features[10:], labels=test.labels[10:])
    wanted = low_shot_svm.evaluate(train, kept, **settings)
    test.labels[:10] = -1
    test.features[:10] = torch.randn(10, 12) * 100
    assert low_shot_svm.evaluate(train, test, **settings) == wanted
