"""Many short strings in two arrays: a million names pickle and fork at little cost."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable

import numpy as np


class PackedStrings:
    """An immutable sequence of file names.

    A list of a million ``str`` is a million objects, which every worker copies page by
    page as it counts references to them.

    Args:
        names: any strings that can be file names, those without valid UTF-8 too.
    """

    def __init__(self, names: Iterable[str]):
        encoded = [os.fsencode(name) for name in names]
        self._bytes = b"".join(encoded)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        self._ends = np.cumsum(lengths)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        place = checked_index(index, len(self))
        start = int(self._ends[place - 1]) if place else 0
        return os.fsdecode(self._bytes[start : int(self._ends[place])])


def checked_index(index: int, count: int) -> int:
    """The index as an int in 0 to count - 1; negative ones count from the end.

    Raises:
        IndexError: beyond either end.
    """
    place = operator.index(index)
    if not -count <= place < count:
        raise IndexError(f"image {place} of {count}")
    return place % count
