"""XCiT's layers and DINO's teacher on the CPU."""

from types import SimpleNamespace

import pytest
import torch

from vissl_swav.compat import cpu_batch_norm

pytestmark = pytest.mark.usefixtures("host")


def test_xcits_layers_are_batch_norm_on_the_cpu():
    """Statistics, running ones and names of the state: those of batch norm."""
    from vissl.models.trunks.xcit import conv3x3

    torch.manual_seed(0)
    (_, theirs), plain = conv3x3(3, 4), torch.nn.BatchNorm2d(4)
    assert isinstance(theirs, torch.nn.SyncBatchNorm)
    pixels = torch.randn(5, 4, 3, 3)
    assert torch.equal(theirs(pixels), plain(pixels))
    for name, value in plain.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], value), name
    assert torch.equal(theirs.eval()(pixels), plain.eval()(pixels))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_teacher_is_converted_on_a_gpu_only(monkeypatch, device):
    from vissl.hooks import dino_hooks

    def model(*_):
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))

    monkeypatch.setattr(dino_hooks, "build_model", model)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_: self)
    trunk = {"VISION_TRANSFORMERS": {"DROP_PATH_RATE": 0.1}}
    task = SimpleNamespace(
        device=torch.device(device),
        config={"MODEL": {"TRUNK": trunk}, "OPTIMIZER": {}},
        loss=SimpleNamespace(checkpoint=None),
        model=model(),
    )
    dino_hooks.DINOHook()._build_momentum_network(task)
    synchronised = isinstance(task.loss.momentum_teacher[1], torch.nn.SyncBatchNorm)
    assert synchronised == (device == "cuda")
    assert dino_hooks.nn is torch.nn, "the hook's module is as it was"


def test_patches_are_laid_once():
    from vissl.hooks import dino_hooks

    before = dino_hooks.DINOHook._build_momentum_network
    cpu_batch_norm.keep_the_teachers_layers(dino_hooks)
    assert dino_hooks.DINOHook._build_momentum_network is before
