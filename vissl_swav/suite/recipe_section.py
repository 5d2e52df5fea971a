"""Mappings of a recipe, read key by key: what nobody asks for is a mistake."""

import difflib
import math
from collections.abc import Mapping
from typing import Any

from vissl_swav.host.errors import StartError

NUMBERS = (int, float)
_WORDS = {
    dict: "keys and values",
    list: "a list",
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


class Section:
    """A mapping whose keys must all be known."""

    def __init__(self, tree: Any, place: str):
        if not isinstance(tree, Mapping):
            raise StartError(f"{place} is {tree!r}; wanted keys and values.")
        self._tree, self._place, self._asked = dict(tree), place, set[str]()

    def take(self, key: str, kind: Any, default: Any = ...) -> Any:
        """The value, of this kind; the default where the key is missing."""
        self._asked.add(key)
        if key not in self._tree:
            if default is ...:
                raise StartError(f"{self._place} has no `{key}`, which is needed.")
            return default
        value = self._tree[key]
        wrong = isinstance(value, bool) and kind is not bool
        if wrong or not isinstance(value, kind):
            names = kind if isinstance(kind, tuple) else (kind,)
            wanted = " or ".join(_WORDS[one] for one in names)
            raise StartError(f"{self._place}.{key} is {value!r}; wanted {wanted}.")
        return value

    def count(self, key: str) -> int | None:
        """A whole number of at least 1, or None."""
        value = self.take(key, int, None)
        if value is not None and value < 1:
            raise StartError(f"{self._place}.{key} is {value}; wanted at least 1.")
        return value

    def wholes(self, key: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """Whole numbers of at least 1: a list, or one."""
        found = self.numbers(key, default)
        if any(int(number) != number for number in found):
            raise StartError(
                f"{self._place}.{key} is {list(found)}; wanted whole numbers."
            )
        return tuple(map(int, found))

    def numbers(self, key: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """Positive numbers: a list, or one."""
        value = self.take(key, (list, int, float), list(default))
        entries = value if isinstance(value, list) else [value]
        for entry in entries:
            good = isinstance(entry, NUMBERS) and not isinstance(entry, bool)
            if not good or not 0 < entry < math.inf:
                raise StartError(
                    f"{self._place}.{key} holds {entry!r}; wanted numbers above 0."
                )
        return tuple(entries)

    def end(self) -> None:
        """Refuses keys that nobody asked for."""
        for key in self._tree:
            if key not in self._asked:
                raise StartError(
                    f"{self._place} has an unknown key `{key}`"
                    f"{nearest(str(key), self._asked)}."
                )


def nearest(word: str, known: Any) -> str:
    """The end of a message: the name that was meant, perhaps, or all there are."""
    close = difflib.get_close_matches(word, [str(k) for k in known], n=1)
    return f"; did you mean `{close[0]}`?" if close else f" ({', '.join(known)})"
