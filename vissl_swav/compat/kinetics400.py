"""`torchvision.datasets.kinetics.Kinetics400` is gone.

Symptom: ``ImportError: cannot import name 'Kinetics400' from
    'torchvision.datasets.kinetics'``.
Host line: `classy_vision/dataset/classy_kinetics400.py:11`.
Remedy: an alias of `Kinetics`, its successor, in that torchvision module. VISSL never
    builds the data set; classy-vision only imports the name.
Delete it when: classy-vision imports `Kinetics`.
"""

from __future__ import annotations

from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

from vissl_swav.compat.import_hook import after_import

NAME = "kinetics400"


def needed() -> bool:
    """Say whether torchvision's source lacks the class; nothing is imported."""
    spec = PathFinder.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    source = Path(spec.origin).parent / "datasets" / "kinetics.py"
    return source.exists() and "class Kinetics400" not in source.read_text("utf-8")


def apply() -> None:
    """Arm the alias for the moment torchvision's module has run."""
    after_import("torchvision.datasets.kinetics", add_alias)


def add_alias(module: ModuleType) -> None:
    """Add `Kinetics400` to the module if it is not there."""
    if not hasattr(module, "Kinetics400"):
        module.__dict__["Kinetics400"] = module.Kinetics
