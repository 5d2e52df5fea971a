"""Instance retrieval with ``MACHINE.DEVICE=cpu``.

Symptoms: ``AssertionError: CUDA not available, Exit!``; behind it weights loaded to,
    the model copied to and images sent to a CUDA device, whatever MACHINE.DEVICE says.
Host lines: `tools/instance_retrieval_test.py:69,105,494,530`.
Remedy: on the CPU the tool sees functions that stay there, while it runs; on a GPU
    it is the host's.
Delete it when: the tool asks MACHINE.DEVICE.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

from vissl_swav.compat.module_proxy import ModuleProxy
from vissl_swav.compat.tools_as_main import mend_tool
from vissl_swav.compat.wrapping import wrap

NAME = "cpu_retrieval"


def needed() -> bool:
    """Always: the host asserts a GPU whatever the machine has."""
    return True


def apply() -> None:
    """Arm the tool, imported or run."""
    mend_tool("instance_retrieval_test", use_the_configured_device, shim=NAME)


def use_the_configured_device(module: ModuleType) -> None:
    """Let the tool run where MACHINE.DEVICE says."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def instance_retrieval_test(args: Any, cfg: Any) -> None:
            if cfg.MACHINE.DEVICE != "cpu":
                return original(args, cfg)
            logging.info("Instance retrieval on the CPU, by vissl_swav")
            with _on_the_cpu(module):
                return original(args, cfg)

        return instance_retrieval_test

    wrap(module, "instance_retrieval_test", around, shim=NAME)


@contextlib.contextmanager
def _on_the_cpu(module: ModuleType) -> Iterator[None]:
    """The tool's four ways to a CUDA device lead to the CPU inside this."""
    load = module.load_checkpoint
    # The tool only asks whether it may start.
    gpu = SimpleNamespace(is_available=lambda: True)
    names = {
        "torch": ModuleProxy(module.torch, cuda=gpu),
        "copy_model_to_gpu": lambda model: model,
        "extract_activation_maps": activation_maps,
        "load_checkpoint": lambda path, device=None: load(path),
    }
    hosts = {name: getattr(module, name) for name in names}
    module.__dict__.update(names)
    try:
        yield
    finally:
        module.__dict__.update(hosts)


def activation_maps(img: Any, model: Any, img_scalings: Sequence[float]) -> list[Any]:
    """The first feature map of an image at each scale.

    Args:
        img: (3, height, width).
        model: gives a list of feature maps of a batch.
        img_scalings: factors of both sides, bilinear.

    Returns:
        For each scale (1, channels, height, width).
    """
    import torch
    from torch.nn.functional import interpolate

    maps = []
    for factor in img_scalings:
        scaled = interpolate(
            img[None], scale_factor=factor, mode="bilinear", align_corners=False
        )
        with torch.no_grad():
            maps.append(model(scaled)[0])
    return maps
