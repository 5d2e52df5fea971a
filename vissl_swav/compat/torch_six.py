"""`torch._six` is gone.

Symptom: ``ModuleNotFoundError: No module named 'torch._six'``.
Host line: code of VISSL's time imports it, among it NVIDIA apex up to 2022
    (`apex/amp/_initialize.py`, `apex/amp/utils.py`), which VISSL's configurations ask
    for. VISSL 0.1.6's wheel itself no longer does.
Remedy: a module with the names it held in torch 1.9, set only when torch lacks it.
Delete it when: nobody uses an apex of before 2023.
"""

from __future__ import annotations

import collections.abc
import math
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

NAME = "torch_six"


def needed() -> bool:
    """Say whether torch is there and lacks the module; torch is not imported."""
    spec = PathFinder.find_spec("torch")
    if "torch._six" in sys.modules or spec is None or spec.origin is None:
        return False
    return not (Path(spec.origin).parent / "_six.py").exists()


def apply() -> None:
    """Put the stand-in into `sys.modules`."""
    if not needed():
        return
    module = ModuleType("torch._six", "Stand-in by vissl_swav.compat.torch_six.")
    module.__dict__.update(
        container_abcs=collections.abc,
        string_classes=(str, bytes),
        int_classes=int,
        inf=math.inf,
        nan=math.nan,
    )
    sys.modules["torch._six"] = module
