"""Which `apex` is this: NVIDIA's, another project of that name, or none?

Symptom: with PyPI's `apex` (a web toolkit) installed by mistake, ``import apex``
    succeeds or dies deep in its own imports, `is_apex_available()` may say True, and
    ``AttributeError: module 'apex' has no attribute 'parallel'`` follows while VISSL is
    imported. NVIDIA's own apex is on no package index.
Host lines: `vissl/utils/misc.py:71`, `vissl/models/model_helpers.py:28`,
    `vissl/optimizers/optimizer_helper.py:25`, `vissl/trainer/train_task.py:32`,
    `vissl/trainer/train_steps/standard_train_step.py:28`,
    `classy_vision/generic/util.py:24`, `classy_vision/tasks/classification_task.py:54`.
Remedy: an apex counts as there only with `apex.amp` and `apex.parallel`, which the host
    uses. Any other is named in one warning and treated as absent. A real one is left to
    the host.
Delete it when: VISSL no longer imports apex.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType

from vissl_swav.compat.import_hook import after_import

NAME = "apex_identity"
USED_BY_HOST = ("amp", "parallel")
CLASSY_FLAGS = ("classy_vision.generic.util", "classy_vision.tasks.classification_task")


def _locate() -> tuple[str, list[str]] | None:
    """Return where `apex` lies and which of the two subpackages it has.

    Nothing of it is imported: another project's `apex` may do anything on import.
    """
    module = sys.modules.get("apex")
    if module is not None and getattr(module, "__spec__", None) is None:
        found = [name for name in USED_BY_HOST if hasattr(module, name)]
        return str(getattr(module, "__file__", "memory")), found
    try:
        spec = importlib.util.find_spec("apex")
    except ValueError:  # `sys.modules["apex"]` is None: somebody has switched it off.
        return None
    if spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or []]
    found = [
        name
        for name in USED_BY_HOST
        if any((folder / name / "__init__.py").exists() for folder in folders)
    ]
    where = spec.origin or (str(folders[0]) if folders else "an unknown place")
    return where, found


def is_nvidia_apex() -> bool:
    """Say whether an apex with all that the host uses is installed."""
    located = _locate()
    return located is not None and len(located[1]) == len(USED_BY_HOST)


def describe() -> str:
    """Say in one phrase what `apex` is here: for logs and `vissl-swav --version`."""
    located = _locate()
    if located is None:
        return "no apex"
    if is_nvidia_apex():
        return f"NVIDIA apex at {located[0]}"
    missing = " and ".join(f"apex.{n}" for n in USED_BY_HOST if n not in located[1])
    return (
        f"an 'apex' without {missing} at {located[0]}: another project of that name "
        "(PyPI's 'apex'), or a release that dropped them"
    )


def needed() -> bool:
    """Say whether an apex is installed that the host must not take for NVIDIA's."""
    return _locate() is not None and not is_nvidia_apex()


def apply() -> None:
    """Name a wrong apex, and arm the host's three flags to say that there is none."""
    if not needed():
        return
    logging.getLogger("vissl_swav.compat").warning(
        "%s. It is treated as absent: LARC, SyncBatchNorm and mixed precision use "
        "vissl_swav's own. `pip uninstall apex` removes it.",
        describe(),
    )
    after_import("vissl.utils.misc", deny_in_vissl)
    for name in CLASSY_FLAGS:
        after_import(name, deny_in_classy)


def deny_in_vissl(module: ModuleType) -> None:
    """Let `is_apex_available()` answer False, before other modules take it."""
    module.__dict__["is_apex_available"] = lambda: False


def deny_in_classy(module: ModuleType) -> None:
    """Set the module's flag to False; the host sets it from a bare import."""
    module.__dict__["apex_available"] = False
