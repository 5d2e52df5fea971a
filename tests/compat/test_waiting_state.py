"""Losses of the host that make their teacher in the first step."""

from importlib import import_module

import pytest
import torch

from vissl_swav.compat import waiting_state

pytestmark = pytest.mark.usefixtures("host")


def moco():
    from vissl.losses.moco_loss import MoCoLoss, MoCoLossConfig

    return MoCoLoss(MoCoLossConfig(4, 8, 0.999, 0.2))


def dino():
    from vissl.config import AttrDict
    from vissl.losses.dino_loss import DINOLoss

    return DINOLoss(AttrDict({"output_dim": 4}))


def swav_momentum():
    from vissl.config import AttrDict
    from vissl.losses.swav_momentum_loss import SwAVMomentumLoss

    queue = {"queue_length": 4, "local_queue_length": 4, "start_iter": 0}
    config = {"queue": queue, "num_prototypes": [3], "crops_for_assign": [0, 1]}
    return SwAVMomentumLoss(AttrDict({**config, "embedding_dim": 2}))


MAKERS = {
    "moco_encoder": moco,
    "momentum_teacher": dino,
    "momentum_encoder": swav_momentum,
}


def test_every_loss_of_the_shim_is_tried():
    assert set(MAKERS) == {teacher for *_, teacher in waiting_state.LOSSES}


@pytest.mark.parametrize("teacher", MAKERS)
def test_what_was_read_is_written_until_the_teacher_is_made(teacher):
    torch.manual_seed(0)
    trained = MAKERS[teacher]()
    own = set(trained.state_dict())
    setattr(trained, teacher, torch.nn.Linear(2, 3))
    saved = trained.state_dict()
    assert set(saved) == own | {f"{teacher}.weight", f"{teacher}.bias"}

    resumed = MAKERS[teacher]()
    resumed.load_state_dict(saved)
    again = resumed.state_dict()
    assert set(again) == set(saved)
    assert all(torch.equal(again[name], saved[name]) for name in saved)

    setattr(resumed, teacher, torch.nn.Linear(2, 3))
    made = resumed.state_dict()
    assert not torch.equal(made[f"{teacher}.weight"], saved[f"{teacher}.weight"])
    resumed.load_state_dict(resumed.checkpoint)
    made = resumed.state_dict()
    assert all(torch.equal(made[name], saved[name]) for name in saved)


@pytest.mark.parametrize("teacher", MAKERS)
def test_a_run_that_begins_has_its_own_state(teacher):
    assert MAKERS[teacher]().checkpoint is None
    assert not any(teacher in name for name in MAKERS[teacher]().state_dict())


def test_patches_are_laid_once():
    for file, name, teacher in waiting_state.LOSSES:
        module = import_module(f"vissl.losses.{file}")
        before = getattr(module, name).state_dict
        waiting_state.keep(module, name=name, teacher=teacher)
        assert getattr(module, name).state_dict is before
