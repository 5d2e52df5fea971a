"""A stand-in for a module as one host module sees it: some names are ours.

Used to give a single host module another `torch.load`, `np.float` or `autocast`
without touching the real module, which everybody else shares.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any


class ModuleProxy(ModuleType):
    """Behaves as `target`, except for the names given.

    Args:
        target: the real module (or another proxy).
        **names: attributes that this view shows instead of the target's.
    """

    def __init__(self, target: ModuleType, **names: Any) -> None:
        super().__init__(target.__name__, target.__doc__)
        self.__dict__.update(names)
        self.__dict__["_target"] = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_target"], name)

    def __dir__(self) -> list[str]:
        return sorted({*dir(self.__dict__["_target"]), *self.__dict__})

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"{self!r} is a view for one host module and is not pickled")


def overlay(module: ModuleType, name: str, **names: Any) -> None:
    """Replace the module-global `name` by a proxy that shows `names`.

    A second overlay of the same name is laid over the first, so that two shims may
    change different attributes. Laying the same names twice changes nothing.
    """
    current = getattr(module, name)
    if isinstance(current, ModuleProxy):
        current.__dict__.update(names)
    else:
        setattr(module, name, ModuleProxy(current, **names))
