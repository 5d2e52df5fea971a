"""The host's environment report at the start of each log, and us in it.

Symptoms: the report, which VISSL logs before anything else, names neither our shims
    nor a wrong apex; it asks `pkg_resources` for a distribution called "apex" and dies
    with ``PackageNotFoundError`` when an apex was put on the path without one.
Host lines: `vissl/utils/collect_env.py:119-131`.
Remedy: two rows more, and that error reported as "unknown".
Delete it when: compat is no longer needed at all.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from vissl_swav.compat.apex_identity import describe
from vissl_swav.compat.import_hook import after_import
from vissl_swav.compat.wrapping import wrap

NAME = "environment_report"


def needed() -> bool:
    """Always: the log must say what runs."""
    return True


def apply() -> None:
    """Arm the patch."""
    after_import("vissl.utils.collect_env", report_compat)


def report_compat(module: ModuleType) -> None:
    """Add our rows to `collect_dep_env`."""

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def collect_dep_env(data: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
            from importlib.metadata import PackageNotFoundError

            from vissl_swav import __version__, compat

            try:
                data = original(data)
            except PackageNotFoundError:
                data.append(("apex", "unknown"))
            data.append(("vissl_swav", f"{__version__}; {describe()}"))
            data.append(("vissl_swav.compat", compat.summary()))
            return data

        return collect_dep_env

    wrap(module, "collect_dep_env", around, shim=NAME)
