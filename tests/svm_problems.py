"""Problems for the tests of the SVM tools, and the host's trainers to compare with."""

import functools
import types

import torch
from sklearn.svm import LinearSVC

from vissl_swav.suite.features import FeatureSet


def sets(made, *, train=120, test=80, num_classes=4, **settings):
    """A training and a test set, made by a function of `feature_files`."""
    found = []
    for seed, count in ((1, train), (2, test)):
        rows, targets = made(count, num_classes, seed=seed, **settings)
        labels = torch.from_numpy(targets).long()
        if labels.shape[1] == 1:
            labels = labels.view(-1)
        found.append(FeatureSet(torch.from_numpy(rows), labels))
    return found


class SerialThread:
    """The host trains its classes in threads, which share LIBLINEAR's random state."""

    def __init__(self, target, args):
        self.start = functools.partial(target, *args)

    def join(self):
        pass


def hosts_trainer(monkeypatch, module, name, config, folder):
    """The host's trainer, its solver seeded as ours is and quiet."""
    from vissl.config import AttrDict
    from vissl.utils.svm_utils import svm_trainer

    def solver(verbose, **settings):
        return LinearSVC(**settings, random_state=0)

    monkeypatch.setattr(module, "LinearSVC", solver)
    serial = types.SimpleNamespace(Thread=SerialThread)
    monkeypatch.setattr(svm_trainer, "threading", serial)
    return getattr(module, name)(AttrDict(config), layer="res5avg", output_dir=folder)


def hosts_config(costs, **low_shot):
    return {
        "normalize": True,
        "cls_list": [],
        "loss": "squared_hinge",
        "penalty": "l2",
        "dual": True,
        "max_iter": 2000,
        "cross_val_folds": 3,
        "costs": {"costs_list": list(costs), "base": -1.0, "power_range": [4, 20]},
        "force_retrain": False,
        "low_shot": low_shot,
    }
