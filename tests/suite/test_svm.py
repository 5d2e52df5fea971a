"""`vissl-swav svm`: against VISSL's trainer, scikit-learn and explicit loops."""

import json

import feature_files
import numpy as np
import pytest
import torch
from svm_problems import hosts_config, hosts_trainer, sets

from vissl_swav.data.errors import DataError
from vissl_swav.suite import svm
from vissl_swav.suite.features import FeatureSet
from vissl_swav.suite.svm_classifier import Solver, fit, prepared, voc_average_precision


@pytest.mark.filterwarnings("ignore:Liblinear failed")
def test_mean_average_precision_is_vissls(host, tmp_path, monkeypatch):
    from vissl.utils.svm_utils import svm_trainer

    train, test = sets(feature_files.scenes, noise=1.5)
    costs = [0.01, 0.1, 1.0, 10.0, 100.0]
    trainer = hosts_trainer(
        monkeypatch, svm_trainer, "SVMTrainer", hosts_config(costs), str(tmp_path)
    )
    trainer.train(train.features.double().numpy(), train.labels.numpy())
    trainer.test(test.features.double().numpy(), test.labels.numpy())
    told = []
    result = svm.evaluate(train, test, costs=costs, report=lambda *of: told.append(of))
    folder = tmp_path / "res5avg"
    theirs = 100.0 * np.load(folder / "test_ap.npy").ravel()
    assert result.metric == "mean_ap" and result.folds == 3 and result.seed == 0
    np.testing.assert_allclose(result.per_class, theirs, atol=1e-6)
    assert result.value == pytest.approx(theirs.mean(), abs=1e-6)
    np.testing.assert_allclose(
        result.cross_validation, 100.0 * np.load(folder / "crossval_ap.npy"), atol=1e-6
    )
    assert result.chosen_costs == np.load(folder / "chosen_cost.npy").tolist()
    assert len(set(result.chosen_costs)) > 1
    assert told[-1] == (24, 24) and len(told) == 24


def test_the_plane_is_the_minimum_of_the_formula():
    """`w^2 / 2 + b^2 / 2 + C sum weight max(0, 1 - sign (wx + b))^2`, by descent."""
    train, _ = sets(feature_files.blobs, noise=2.0, num_classes=2, train=40)
    rows = prepared(train.features.numpy(), Solver())
    signs = np.where(train.labels.numpy() == 1, 1, -1)
    plane = fit(rows, signs, 1.5, Solver(max_iter=100_000))
    assert plane.converged
    point = torch.zeros(rows.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    x = torch.from_numpy(np.hstack([rows, np.ones((len(rows), 1))]))
    y = torch.from_numpy(signs)
    weight = torch.where(y == 1, 2.0, 1.0)
    optimiser = torch.optim.LBFGS([point], max_iter=500, tolerance_grad=1e-12)

    def objective():
        optimiser.zero_grad()
        margin = (1 - y * (x @ point)).clamp(min=0)
        value = point @ point / 2 + 1.5 * (weight * margin**2).sum()
        value.backward()
        return value

    optimiser.step(objective)
    found = np.append(plane.weight, plane.bias)
    np.testing.assert_allclose(found, point.detach().numpy(), atol=2e-3)
    assert not fit(rows, signs, 1000.0, Solver(max_iter=2)).converged


def _average_precision_by_loops(is_positive, scores):
    ranked = sorted(range(len(scores)), key=lambda i: -scores[i])
    precision, recall, hits = [], [], 0
    for count, i in enumerate(ranked, start=1):
        hits += is_positive[i]
        precision.append(hits / count)
        recall.append(hits / sum(is_positive))
    area, before = 0.0, 0.0
    for i, r in enumerate(recall):
        area += (r - before) * max(precision[i:])
        before = r
    return area


@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_average_precision_is_the_area_under_the_curve(count):
    generator = np.random.default_rng(count)
    for _ in range(20):
        is_positive = generator.random(count) < 0.4
        is_positive[generator.integers(count)] = True
        scores = generator.normal(size=count)
        assert voc_average_precision(is_positive, scores) == pytest.approx(
            _average_precision_by_loops(is_positive.tolist(), scores.tolist())
        )
    assert np.isnan(voc_average_precision(np.zeros(count, bool), scores))
    assert voc_average_precision(np.ones(count, bool), scores) == 1.0


def test_accuracy_and_its_cost_are_those_of_loops():
    train, test = sets(feature_files.blobs, noise=1.6)
    train.labels[:8] = test.labels[:3] = -1
    costs = [0.05, 1.0, 200.0]
    result = svm.evaluate(train, test, costs=costs, folds=2)
    rows = prepared(train.features.numpy(), Solver())
    kept = np.flatnonzero(train.labels.numpy() >= 0)
    rows, labels = rows[kept], train.labels.numpy()[kept]
    shares = []
    for cost in costs:
        right = []
        for held_out in (_half(labels, 0), _half(labels, 1)):
            scores = _scores(rows[~held_out], labels[~held_out], rows[held_out], cost)
            right.append((scores.argmax(axis=1) == labels[held_out]).mean())
        shares.append(100.0 * np.mean(right))
    np.testing.assert_allclose(result.cross_validation, [shares] * 4)
    best = costs[int(np.argmax(shares))]
    assert result.chosen_costs == [best] * 4 and result.metric == "accuracy"
    scores = _scores(rows, labels, prepared(test.features.numpy(), Solver()), best)
    right = (scores.argmax(axis=1) == test.labels.numpy())[3:]
    assert result.value == pytest.approx(100.0 * right.mean())
    of_class = test.labels.numpy()[3:]
    for number, value in enumerate(result.per_class):
        assert value == pytest.approx(100.0 * right[of_class == number].mean())
    assert result.fits == 4 * 3 * 2 + 4


def _half(labels, which):
    """The images of the first or second half of each class."""
    held_out = np.zeros(len(labels), dtype=bool)
    for number in np.unique(labels):
        mine = np.flatnonzero(labels == number)
        held_out[np.array_split(mine, 2)[which]] = True
    return held_out


def _scores(rows, labels, others, cost):
    planes = [
        fit(rows, np.where(labels == number, 1, -1), cost, Solver())
        for number in range(4)
    ]
    return np.stack([plane.scores(others) for plane in planes], axis=1)


@pytest.mark.parametrize("made", [feature_files.scenes, feature_files.blobs])
def test_processes_change_nothing(made):
    train, test = sets(made)
    settings = {"costs": [1.0, 50.0], "seed": 3}
    alone = svm.evaluate(train, test, **settings)
    assert svm.evaluate(train, test, jobs=2, **settings) == alone


def test_one_cost_needs_no_folds_and_a_part_of_the_classes_is_enough():
    train, test = sets(feature_files.scenes)
    whole = svm.evaluate(train, test, costs=[1.0], folds=0)
    assert whole.folds == 0 and whole.cross_validation == [[], [], [], []]
    assert whole.fits == 4
    part = svm.evaluate(train, test, costs=[1.0], classes=[3, 1])
    assert part.classes == [3, 1]
    assert part.per_class == [whole.per_class[3], whole.per_class[1]]
    train, test = sets(feature_files.blobs)
    part = svm.evaluate(train, test, costs=[1.0], classes=[0, 2])
    keeps = [
        FeatureSet(*(column[images.labels % 2 == 0] for column in images))
        for images in (train, test)
    ]
    assert part.value == svm.evaluate(*keeps, costs=[1.0]).value


def test_a_class_without_test_images_does_not_count():
    train, test = sets(feature_files.scenes)
    test.labels[:, 2] = 0
    result = svm.evaluate(train, test, costs=[1.0])
    assert result.per_class[2] is None
    rest = [value for value in result.per_class if value is not None]
    assert result.value == pytest.approx(np.mean(rest))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"costs": []}, "wanted one or more, all above 0"),
        ({"costs": [1.0, -1.0]}, "all above 0"),
        ({"folds": 1}, "2 or more to choose from 2 costs"),
        ({"folds": 200}, "one a fold: take fewer folds"),
        ({"classes": [9]}, "class 9 is asked for"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    train, test = sets(feature_files.scenes)
    with pytest.raises(DataError, match=message):
        svm.evaluate(train, test, **{"costs": [1.0, 2.0], **change})


def test_labels_that_do_not_fit_are_refused():
    train, test = sets(feature_files.scenes)
    for labels, message in (
        (train.labels[:, 0], "the same dimension and classes"),
        (train.labels[:9], r"wanted \(N,\) or \(N, C\)"),
        (train.labels + 1, "1 for a class that is present"),
        (torch.zeros_like(train.labels), "class 0 has 0 of 120 training images"),
    ):
        with pytest.raises(DataError, match=message):
            svm.evaluate(FeatureSet(train.features, labels), test, costs=[1.0])
    with pytest.raises(DataError, match="no test image has a label"):
        nothing = FeatureSet(test.features, torch.zeros_like(test.labels))
        svm.evaluate(train, nothing, costs=[1.0])
    train.features[3, 3] = torch.inf
    with pytest.raises(DataError, match="not finite"):
        svm.evaluate(train, test, costs=[1.0])


def test_the_command(tmp_path, capsys):
    train, test = sets(feature_files.blobs, noise=1.6)
    for split, images in (("train", train), ("test", test)):
        labels = images.labels.numpy()[:, None]
        feature_files.write(tmp_path, split, images.features.numpy(), labels, ranks=2)
    given = ("--costs", "0.1,2", "--folds", 4, "--seed", 5, "--jobs", 1)
    assert feature_files.command("svm", tmp_path, *given) == 0
    found = json.loads((tmp_path / "svm.json").read_text())
    result = svm.evaluate(train, test, costs=[0.1, 2.0], folds=4, seed=5)
    layer = found["layers"]["res5avg"]
    assert layer["value"] == result.value
    assert layer["cross_validation"] == result.cross_validation
    assert layer["chosen_costs"] == result.chosen_costs
    assert (layer["seed"], layer["folds"]) == (5, 4)
    assert layer["solver"]["positive_weight"] == 2.0 and layer["solver"]["seed"] == 5
    assert f"{result.value:.2f}" in capsys.readouterr().out
    assert feature_files.command("svm", tmp_path, "--folds", 500) == 2
    assert "take fewer folds" in capsys.readouterr().err
