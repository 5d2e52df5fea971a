"""torchvision's compiled operators are missing: declare the two schemas it wants.

Symptom: ``RuntimeError: operator torchvision::nms does not exist`` from any
    ``import torchvision``, when torchvision was built for another torch (a CUDA wheel
    beside a CPU torch, say). Its `_meta_registrations.py` registers fake kernels for
    operators that the extension, which failed to load, would have declared.
Host line: `classy_vision/dataset/classy_kinetics400.py:11`, and every transform.
Remedy: declare ``torchvision::nms`` and ``torchvision::qnms`` without a kernel. All of
    torchvision but the compiled detection operators then works. On a matching pair
    nothing is done.
Delete it when: torchvision imports without its extension.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from vissl_swav.compat.import_hook import before_import

NAME = "torchvision_ops"
SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# torch forgets the declarations when the Library object is collected.
_declared: list[Any] = []


def _extension_path() -> Path | None:
    spec = PathFinder.find_spec("torchvision")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for suffix in ("so", "pyd", "dylib"):
            path = Path(folder) / f"_C.{suffix}"
            if path.exists():
                return path
    return None


def needed() -> bool:
    """Say whether torchvision is there, not yet imported, and lacks its operators."""
    return "torchvision" not in sys.modules and operators_are_missing()


def operators_are_missing() -> bool:
    """Try to load the extension, as torchvision itself is going to. Imports torch."""
    if PathFinder.find_spec("torchvision") is None:
        return False
    import torch

    path = _extension_path()
    if path is not None:
        try:
            torch.ops.load_library(str(path))
        except OSError:
            pass
    return not hasattr(torch.ops.torchvision, "nms")


def apply() -> None:
    """Arm the declaration for the moment before torchvision is imported."""
    before_import(("torchvision",), declare_missing_schemas)


def declare_missing_schemas() -> None:
    """Declare the schemas if, and only if, the extension cannot be loaded."""
    if not operators_are_missing():
        return
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _declared.append(library)
