"""Reach a tool of the host's that runs as a program.

``python -m tools.NAME`` runs the file as `__main__`, which no import hook sees. Each
tool composes its configuration before it does anything else, so we look for it then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from vissl_swav.compat.import_hook import after_import
from vissl_swav.compat.wrapping import wrap


def mend_tool(tool: str, mend: Callable[[ModuleType], None], *, shim: str) -> None:
    """Call `mend` with the tool's module, imported or run as a program.

    Args:
        tool: its name below `tools`.
        mend: must bear being called twice.
        shim: whose it is.
    """
    after_import(f"tools.{tool}", mend)

    def look(module: ModuleType) -> None:
        wrap(module, "compose_hydra_configuration", around, shim=f"{shim}.{tool}")

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def compose_hydra_configuration(overrides: list[str]) -> Any:
            main = sys.modules.get("__main__")
            file = str(getattr(main, "__file__", "")).replace("\\", "/")
            if main is not None and file.endswith(f"tools/{tool}.py"):
                mend(main)
            return original(overrides)

        return compose_hydra_configuration

    after_import("vissl.utils.hydra_config", look, key=f"{shim}.{tool}")
