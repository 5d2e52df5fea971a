"""``OPTIMIZER.use_larc: True`` without NVIDIA apex.

Symptom: ``AssertionError: Apex must be available to use LARC``.
Host lines: `vissl/trainer/train_task.py:361`, `classy_vision/optim/sgd.py:44`.
Remedy: `Larc` (`larc_optimizer.py`), with the configured trust coefficient, clip and
    eps. With a real apex the host's path stays. ``sgd_fsdp`` has the host's own LARC.
Delete it when: VISSL has a LARC that needs no apex.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

from vissl_swav.compat.apex_identity import is_nvidia_apex
from vissl_swav.compat.import_hook import after_import
from vissl_swav.compat.wrapping import wrap

NAME = "larc"


def needed() -> bool:
    """Without NVIDIA's apex only."""
    return not is_nvidia_apex()


def apply() -> None:
    """Arm both patches."""
    if needed():
        after_import("classy_vision.optim.sgd", give_sgd_our_larc)
        after_import("vissl.trainer.train_task", lift_the_assertion)


def give_sgd_our_larc(module: ModuleType) -> None:
    """Make `SGD.prepare` wrap its optimizer in our `Larc`."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def prepare(self: Any, param_groups: Any) -> None:
            use_larc, self._use_larc = self._use_larc, False
            try:
                original(self, param_groups)
            finally:
                self._use_larc = use_larc
            if use_larc:
                self.optimizer = _with_larc(self.optimizer, self._larc_config)

        return prepare

    wrap(module.SGD, "prepare", around, shim=NAME)


def _with_larc(optimizer: Any, settings: dict[str, Any] | None) -> Any:
    from vissl_swav.compat.larc_optimizer import Larc

    larc = Larc(optimizer, **dict(settings or {}))
    logging.info(
        "LARC: vissl_swav's own in place of apex's: "
        f"trust_coefficient={larc.trust_coefficient}, clip={larc.clip}, eps={larc.eps}"
    )
    return larc


def lift_the_assertion(module: ModuleType) -> None:
    """Make the task build a LARC optimizer without asking for apex."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def _build_optimizer(self: Any) -> Any:
            config = self.config["OPTIMIZER"]
            if config["use_larc"] and config["name"] == "sgd":
                return module.build_optimizer(config)
            return original(self)

        return _build_optimizer

    wrap(module.SelfSupervisionTask, "_build_optimizer", around, shim=NAME)
