"""Put a function of ours around a function of the host, once for each shim."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

_MARK = "_vissl_swav_shims"


def wrap(
    owner: Any,
    name: str,
    make: Callable[[Callable[..., Any]], Callable[..., Any]],
    *,
    shim: str,
) -> None:
    """Replace ``owner.name`` by ``make(original)``, unless this shim has done so.

    Args:
        owner: module or class.
        name: the function's name in it.
        make: takes the original and returns what stands in its place.
        shim: who wraps; several shims may wrap one function.
    """
    original = getattr(owner, name)
    shims = getattr(original, _MARK, ())
    if shim in shims:
        return
    replacement = functools.update_wrapper(make(original), original)
    setattr(replacement, _MARK, (*shims, shim))
    setattr(owner, name, replacement)


def is_wrapped_by(function: Any, shim: str) -> bool:
    """Say whether `wrap` has put this shim around the function."""
    return shim in getattr(function, _MARK, ())
