"""Instance retrieval on the CPU; tests/host_benchmarks runs it from end to end."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

pytestmark = pytest.mark.usefixtures("host")


def config(device):
    return SimpleNamespace(MACHINE=SimpleNamespace(DEVICE=device))


def tool(seen):
    """A module with the names that the tool has, which writes down what it sees."""
    module = ModuleType("tool")
    module.__dict__.update(
        torch=torch,
        copy_model_to_gpu=lambda model: pytest.fail("a GPU was asked for"),
        load_checkpoint=lambda path, device="cpu": (path, device),
        extract_activation_maps=lambda *_: pytest.fail("the GPU's"),
    )

    def instance_retrieval_test(args, cfg):
        seen.append(module.torch.cuda.is_available())
        seen.append(module.copy_model_to_gpu("model"))
        seen.append(module.load_checkpoint("path", device=torch.device("cuda")))
        raise KeyError("in the middle")

    module.instance_retrieval_test = instance_retrieval_test
    return module


def test_the_tool_stays_on_the_cpu_and_is_the_hosts_again_afterwards():
    from vissl_swav.compat.cpu_retrieval import use_the_configured_device

    seen = []
    module = tool(seen)
    before = dict(vars(module))
    for _ in range(2):  # Armed twice, it acts once.
        use_the_configured_device(module)
    with pytest.raises(KeyError):
        module.instance_retrieval_test(None, config("cpu"))
    assert seen == [True, "model", ("path", "cpu")]
    before["instance_retrieval_test"] = module.instance_retrieval_test
    assert vars(module) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="the tool would start")
def test_a_config_for_a_gpu_is_the_hosts():
    from tools.instance_retrieval_test import instance_retrieval_test

    with pytest.raises(AssertionError, match="CUDA not available"):
        instance_retrieval_test(None, config("gpu"))


def test_the_tool_run_as_main_is_mended_too(monkeypatch):
    from hydra.errors import HydraException
    from vissl.utils import hydra_config

    from vissl_swav.compat.wrapping import is_wrapped_by

    main = tool([])
    main.__file__ = "/anywhere/site-packages/tools/instance_retrieval_test.py"
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(HydraException):
        hydra_config.compose_hydra_configuration(["no_such_group=1"])
    assert is_wrapped_by(main.instance_retrieval_test, "cpu_retrieval")


def test_maps_at_each_scale():
    from vissl_swav.compat.cpu_retrieval import activation_maps

    image = torch.rand(3, 8, 12)
    halves, same = activation_maps(image, lambda batch: [2 * batch, None], [0.5, 1])
    assert halves.shape == (1, 3, 4, 6)
    # Bilinear at one half: the mean of four pixels.
    torch.testing.assert_close(
        halves, torch.nn.functional.avg_pool2d(2 * image, 2)[None]
    )
    torch.testing.assert_close(same, 2 * image[None])
