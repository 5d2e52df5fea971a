"""XCiT, and DINO with batch norm in its trunk or head, on the CPU.

Symptom: ``ValueError: SyncBatchNorm expected input tensor to be on GPU ...`` in the
    first step. On the CPU the host leaves a model's batch norm as it is
    (`vissl/trainer/train_task.py:462`), but XCiT is written with SyncBatchNorm, and
    DINO's hook converts its teacher whatever the device.
Host lines: `vissl/models/trunks/xcit.py:70,143`, `vissl/hooks/dino_hooks.py:67`.
Remedy: on the CPU XCiT's layers take the statistics of their own process, as batch norm
    does, and the teacher keeps its layers, as the student does.
Delete it when: torch's SyncBatchNorm runs on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from vissl_swav.compat.import_hook import after_import
from vissl_swav.compat.module_proxy import ModuleProxy, overlay
from vissl_swav.compat.wrapping import wrap

NAME = "cpu_batch_norm"


def needed() -> bool:
    """Always: whether a run is on the CPU is not known yet."""
    return True


def apply() -> None:
    """Arm the patches."""
    after_import("vissl.models.trunks.xcit", let_xcit_run_on_the_cpu)
    after_import("vissl.hooks.dino_hooks", keep_the_teachers_layers)


def let_xcit_run_on_the_cpu(module: ModuleType) -> None:
    """Give the trunk a SyncBatchNorm that is batch norm for input on the CPU."""
    from torch import Tensor, nn

    class SyncBatchNorm(nn.SyncBatchNorm):
        def forward(self, input: Tensor) -> Tensor:
            if input.device.type != "cpu":
                return super().forward(input)
            return nn.modules.batchnorm._BatchNorm.forward(self, input)

    overlay(module, "nn", SyncBatchNorm=SyncBatchNorm)


def keep_the_teachers_layers(module: ModuleType) -> None:
    """Let the hook make its teacher without the conversion where there is no GPU."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def _build_momentum_network(self: Any, task: Any) -> None:
            if task.device.type != "cpu":
                return original(self, task)
            hosts = module.nn
            kept = SimpleNamespace(convert_sync_batchnorm=lambda teacher: teacher)
            module.__dict__["nn"] = ModuleProxy(hosts, SyncBatchNorm=kept)
            try:
                return original(self, task)
            finally:
                module.__dict__["nn"] = hosts

        return _build_momentum_network

    wrap(module.DINOHook, "_build_momentum_network", around, shim=NAME)
