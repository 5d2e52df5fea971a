"""``SYNC_BN_CONFIG.SYNC_BN_TYPE: apex`` without NVIDIA apex.

Symptom: ``NameError: name 'apex' is not defined`` when the model is converted.
Host line: `vissl/models/model_helpers.py:180`.
Remedy: the host's own conversion to `torch.nn.SyncBatchNorm`, which makes the same
    process groups from GROUP_SIZE. With a real apex the host's path stays. On the CPU
    the host converts nothing (`vissl/trainer/train_task.py:462`), with any type.
Delete it when: VISSL falls back to torch's SyncBatchNorm itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

from vissl_swav.compat.apex_identity import is_nvidia_apex
from vissl_swav.compat.import_hook import after_import
from vissl_swav.compat.wrapping import wrap

NAME = "sync_bn"


def needed() -> bool:
    """Without NVIDIA's apex only."""
    return not is_nvidia_apex()


def apply() -> None:
    """Arm the patch."""
    if needed():
        after_import("vissl.models.model_helpers", convert_with_torch)


def convert_with_torch(module: ModuleType) -> None:
    """Send the type `apex` down the host's `pytorch` path."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def convert_sync_bn(config: Any, model: Any) -> Any:
            settings = config.MODEL.SYNC_BN_CONFIG
            if settings["SYNC_BN_TYPE"] != "apex":
                return original(config, model)
            logging.info(
                "SYNC_BN_TYPE apex: torch.nn.SyncBatchNorm in place of apex's, with "
                f"the same process groups (GROUP_SIZE={settings['GROUP_SIZE']})"
            )
            return original(_asking_for_torch(config), model)

        return convert_sync_bn

    wrap(module, "convert_sync_bn", around, shim=NAME)


def _asking_for_torch(config: Any) -> SimpleNamespace:
    """Return a view of the two sections that the host's function reads.

    The user's configuration, which goes to the log and to disk, keeps its word.
    """
    settings = {**config.MODEL.SYNC_BN_CONFIG, "SYNC_BN_TYPE": "pytorch"}
    return SimpleNamespace(
        MODEL=SimpleNamespace(SYNC_BN_CONFIG=settings), DISTRIBUTED=config.DISTRIBUTED
    )
