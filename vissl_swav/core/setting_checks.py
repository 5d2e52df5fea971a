"""What the settings of the parts must be; each kind is refused in the same words.

A part that keeps its settings asks when it is made: an error in the middle of a run, or
a queue that is silently none, is what a typing error may not cost.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import Any


class SettingError(ValueError):
    """A setting that a part cannot have.

    Args:
        message: what was got, and what was wanted.
        name: of the argument, so that a layer above can say where it was set.
    """

    def __init__(self, message: str, name: str = ""):
        super().__init__(message)
        self.name = name


def check_positive(name: str, value: float, *, paper: float) -> None:
    """A number above 0; infinity is one, nan is not.

    Raises:
        SettingError: says what the paper has.
    """
    if not value > 0:
        raise SettingError(f"{name} is {value}; wanted > 0 (the paper: {paper}).", name)


def check_whole(name: str, value: Any, *, least: int, usual: str = "") -> None:
    """A whole number, of Python or numpy, from `least` on.

    Args:
        name: of the setting.
        value: of the setting.
        least: the smallest that it may be.
        usual: what it mostly is, for the message: "the paper: 3".

    Raises:
        SettingError: says what is usual.
    """
    kind = "" if isinstance(value, Integral) else "a whole number "
    if kind or value < least:
        hint = f" ({usual})" if usual else ""
        raise SettingError(f"{name} is {value}; wanted {kind}>= {least}{hint}.", name)


def check_num_prototypes(num_prototypes: Sequence[int]) -> tuple[int, ...]:
    """K of each head, as a tuple.

    Raises:
        SettingError: no head, a head without prototypes, or one number for a list.
    """
    try:
        counts = tuple(num_prototypes)
    except TypeError:
        counts = ()
    if not counts or not all(isinstance(K, Integral) and K >= 1 for K in counts):
        raise SettingError(
            f"num_prototypes is {num_prototypes}; wanted a list of whole numbers >= 1, "
            "one of each head and at least one head.",
            "num_prototypes",
        )
    return counts
