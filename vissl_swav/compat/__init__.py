"""What lets VISSL 0.1.6 run on today's stack, with no NVIDIA apex.

`apply()` before the first import of `vissl` or `classy_vision`; `vissl_swav.pth` and
the package's own commands see to it. One file for each shim, with the symptom, the
host's line and the day to delete it; docs/compat.md has the list.

This file is loaded at interpreter start and imports nothing.
"""

from __future__ import annotations

# In this order: what must precede the host comes first.
SHIMS = (
    "torchvision_ops",
    "torch_six",
    "package_resources",
    "kinetics400",
    "removed_names",
    "numpy_scalars",
    "apex_identity",
    "checkpoint_loading",
    "larc",
    "sync_bn",
    "cpu_batch_norm",
    "amp",
    "cpu_extraction",
    "cpu_tools",
    "cpu_retrieval",
    "local_copies",
    "checkpoint_writing",
    "resume",
    "resumed_state",
    "waiting_state",
    "environment_report",
)

_applied: tuple[str, ...] | None = None


def apply() -> tuple[str, ...]:
    """Apply the shims that are needed here; a second call does nothing.

    What has to be there before the host is imported is put in place now; the rest is
    armed and acts when its host module is imported. Nothing of the host is imported.

    Returns:
        The names of the shims applied.
    """
    global _applied
    if _applied is not None:
        return _applied
    import logging
    import sys
    from importlib import import_module

    log = logging.getLogger(__name__)
    if any(name.startswith(("vissl.", "classy_vision.")) for name in sys.modules):
        log.warning(
            "VISSL was imported before vissl_swav.compat.apply(): names that its "
            "modules have taken from each other are not replaced. Call apply() first."
        )
    names = []
    for file in SHIMS:
        shim = import_module(f"{__name__}.{file}")
        if shim.needed():
            shim.apply()
            names.append(shim.NAME)
    _applied = tuple(names)
    log.info(summary())
    return _applied


def summary() -> str:
    """Return the line that `apply()` logged, to show it again in a training log."""
    if _applied is None:
        return "VISSL compatibility: not applied"
    return "VISSL compatibility: " + (", ".join(_applied) or "nothing needed")
