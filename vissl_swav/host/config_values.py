"""Values of the kind that VISSL reads, before VISSL reads them.

The host takes values as they come and dies where one is first used: a `TypeError` from
the middle of its code for a word in place of a number. Here a value has to be of the
kind that the host's default has, or that a YAML of the host uses for the key.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vissl_swav.host.errors import StartError

_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")
_NUMBERS = {"a whole number", "a number"}
# Kinds of long values, of which a message shows the keys or nothing.
_LONGEST = 80
# A norm may be the infinite one.
_MAY_BE_INFINITE = ("config.MODEL.GRAD_CLIP.",)
_MOST = 2**63 - 1


def kind_of(value: Any) -> str:
    """The kind of a value, in words."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int):
        return "a whole number"
    if isinstance(value, float):
        return "a number"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    if value is None:
        return "null"
    # To YAML's own reader 1e-08 is text, to hydra's a number.
    return "a number" if _NUMBER.fullmatch(str(value)) else "text"


def misfits(tree: Any, defaults: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys whose value is of another kind than the default: (key, default).

    Keys that are missing come with the value that they lack. A default of null says
    nothing about the kind, and an empty mapping nothing about what is in it.
    """
    for name, default in defaults.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if name not in tree:
            yield key, default
        elif isinstance(default, Mapping) and isinstance(tree[name], Mapping):
            yield from misfits(tree[name], default, key)
        elif not _fits(tree[name], kind_of(default)):
            yield key, default


def check_kinds(
    tree: Mapping[str, Any],
    defaults: Mapping[str, Any],
    examples: Iterable[Mapping[str, Any]],
) -> None:
    """Every value is of a kind that the host reads there.

    Args:
        tree: the composed config.
        defaults: the host's.
        examples: trees of the host's own YAML files, read only where they are needed.

    Raises:
        StartError: names the key, what stands there and what is wanted.
    """
    _check_numbers(tree)
    found = list(misfits(tree, defaults))
    if not found:
        return
    examples = list(examples)
    for key, default in found:
        there, value = value_at(tree, key)
        if not there:
            raise StartError(
                f"{key} is missing, but VISSL reads it; leave it in{_shown(default)} "
                "instead of deleting it.",
                key=key,
            )
        used = [value_at(example, key) for example in examples]
        kinds = {kind_of(default), *(kind_of(other) for ok, other in used if ok)}
        if not any(_fits(value, kind) for kind in kinds):
            raise StartError(
                f"{key} is {value!r}; wanted {' or '.join(sorted(kinds))}"
                f"{_shown(default)}.",
                key=key,
            )


def leaves(tree: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(place, value) of everything that is no container; entries of lists counted."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            yield from leaves(value, f"{place}.{name}" if place else str(name))
    elif isinstance(tree, (list, tuple)):
        for index, value in enumerate(tree):
            yield from leaves(value, f"{place}[{index}]")
    else:
        yield place, tree


def _check_numbers(tree: Mapping[str, Any]) -> None:
    """No number is `nan` or infinite, or longer than a machine's.

    Raises:
        StartError: names the first one.
    """
    for place, value in leaves(tree):
        if isinstance(value, float) and not math.isfinite(value):
            wanted = "a finite number"
            if math.isinf(value) and place.startswith(_MAY_BE_INFINITE):
                continue
        elif isinstance(value, int) and abs(value) > _MOST:
            wanted = "a whole number of at most 19 digits"
        else:
            continue
        raise StartError(
            f"{place} is {value!r}; wanted {wanted}.", key=place.partition("[")[0]
        )


def _shown(default: Any) -> str:
    """The default in brackets; of a long mapping its keys."""
    text = repr(default)
    if len(text) <= _LONGEST:
        return f" (the default is {text})"
    if isinstance(default, Mapping):
        return f" (the default has the keys {', '.join(map(str, default))})"
    return ""


def _fits(value: Any, kind: str) -> bool:
    own = kind_of(value)
    if kind == "a number":
        return own in _NUMBERS
    return own == kind or kind == "null"


def value_at(tree: Any, key: str) -> tuple[bool, Any]:
    """Whether the dotted key is there, and its value."""
    for name in key.split("."):
        if not isinstance(tree, Mapping) or name not in tree:
            return False, None
        tree = tree[name]
    return True, tree
