"""Which key was probably meant by one that does not exist."""

import difflib
from collections.abc import Collection, Iterable

_NEAR = 0.6
# Of a name somewhere else in the config: only a typing error counts.
_VERY_NEAR = 0.8


def suggestion(key: str, valid: Collection[str], *, prefer: str = "") -> str | None:
    """The valid key that was probably meant; None where none is near.

    Part by part: a misspelt section is mended and the rest looked for below it. Else
    the same name, or one that differs by a letter, in another section.

    Args:
        key: dotted, not valid.
        valid: dotted keys.
        prefer: of several with the same name, those below this section.
    """
    return _part_by_part(key, valid) or _elsewhere(key, valid, prefer)


def hint(key: str, valid: Collection[str], *, prefer: str = "") -> str:
    """`; did you mean ...?`, or nothing."""
    meant = suggestion(key, valid, prefer=prefer)
    return f"; did you mean {meant}?" if meant else ""


def _part_by_part(key: str, valid: Collection[str]) -> str | None:
    place = ""
    for name in key.split("."):
        above = f"{place}." if place else ""
        names = {
            path.removeprefix(above).split(".")[0]
            for path in valid
            if path.startswith(above)
        }
        name = name if name in names else _closest(name, names, _NEAR)
        if name is None:
            return None
        place = above + name
    return place


def _elsewhere(key: str, valid: Collection[str], prefer: str) -> str | None:
    named: dict[str, list[str]] = {}
    for path in valid:
        named.setdefault(path.rpartition(".")[2], []).append(path)
    name = _closest(key.rpartition(".")[2], named, _VERY_NEAR)
    if name is None:
        return None
    parts = set(key.split("."))

    def nearness(path: str) -> tuple[bool, int, int]:
        is_preferred = bool(prefer) and path.startswith(prefer)
        return is_preferred, len(parts & set(path.split("."))), -len(path)

    return max(sorted(named[name]), key=nearness)


def _closest(name: str, names: Iterable[str], cutoff: float) -> str | None:
    """Whatever the letters' case."""
    by_lower: dict[str, str] = {}
    for one in sorted(names):
        by_lower.setdefault(one.lower(), one)
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[close[0]] if close else None
