"""The settings of multi-crop, one ``CropGroup`` for each kind of crop.

A setting is given either once, for all groups, or as a list with one entry a group.
Everything that can be wrong with a setting is found here, before any image is read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

MAX_HUE = 0.5
MAX_LEVEL = 256


@dataclass(frozen=True, kw_only=True)
class CropGroup:
    """How the crops of one group are made.

    Attributes:
        size: side of the square crop, in pixels.
        count: crops of this group per image.
        scale: smallest and largest share of the image's area, in (0, 1].
        ratio: smallest and largest width over height of the cut.
        flip_probability: chance of a horizontal flip.
        jitter: strengths of brightness, contrast, saturation (factors are drawn from
            ``[max(0, 1 - s), 1 + s]``) and hue (a shift in ``[-s, s]`` turns).
        jitter_probability: chance that the four jitter steps are applied.
        grayscale_probability: chance that colour is dropped.
        blur_probability: chance of a Gaussian blur.
        blur_radius: smallest and largest standard deviation of the blur, in pixels of
            the finished crop.
        solarize_probability: chance that bright levels are inverted.
        solarize_threshold: smallest and largest level, 0 to 256, from which on levels
            are inverted; whole ones between them are equally likely.

    Raises:
        ValueError: a value outside its range; the message names the setting.
    """

    size: int
    count: int
    scale: tuple[float, float]
    ratio: tuple[float, float]
    flip_probability: float
    jitter: tuple[float, float, float, float]
    jitter_probability: float
    grayscale_probability: float
    blur_probability: float
    blur_radius: tuple[float, float]
    solarize_probability: float
    solarize_threshold: tuple[float, float]

    def __post_init__(self) -> None:
        """Check every value against its range."""
        _check_whole("size_crops", self.size)
        _check_whole("num_crops", self.count)
        _check_range("crop_scales", self.scale, 0.0, 1.0, open_below=True)
        _check_range("crop_ratios", self.ratio, 0.0, math.inf, open_below=True)
        _check_range("blur_radius", self.blur_radius, 0.0, math.inf)
        for step in ("flip", "jitter", "grayscale", "blur", "solarize"):
            name = f"{step}_probability"
            _check_number(name, getattr(self, name), 0.0, 1.0)
        _check_range("solarize_threshold", self.solarize_threshold, 0, MAX_LEVEL)
        _check_jitter(self.jitter)


def make_groups(
    *,
    size_crops: Sequence[int],
    num_crops: Sequence[int],
    crop_scales: Sequence[Sequence[float]],
    **settings: Any,
) -> tuple[CropGroup, ...]:
    """Turn parallel lists into one ``CropGroup`` per entry.

    Args:
        size_crops: side of each group's crops, in pixels.
        num_crops: crops per image of each group.
        crop_scales: area range of each group.
        settings: the other fields of ``CropGroup`` (``crop_ratios`` for ``ratio``),
            each one value for all groups or a list with one value a group.

    Raises:
        ValueError: lists of unequal length, or a value outside its range.
    """
    lists = {
        "size_crops": _as_list("size_crops", size_crops),
        "num_crops": _as_list("num_crops", num_crops),
        "crop_scales": _as_list("crop_scales", crop_scales),
    }
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) != 1 or not lists["size_crops"]:
        found = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ValueError(
            f"multi-crop lists of unequal or no length: {found}; wanted one entry per "
            "group in each. Add or remove entries so that all three agree."
        )
    num_groups = lengths["size_crops"]
    threshold = settings["solarize_threshold"]
    if _is_sequence(threshold) and any(_is_sequence(entry) for entry in threshold):
        settings["solarize_threshold"] = [_as_pair(entry) for entry in threshold]
    else:
        settings["solarize_threshold"] = _as_pair(threshold)
    settings["ratio"] = settings.pop("crop_ratios")
    spread = {
        name: _one_per_group(_LIST_NAMES.get(name, name), value, num_groups)
        for name, value in settings.items()
    }
    return tuple(
        CropGroup(
            size=lists["size_crops"][group],
            count=lists["num_crops"][group],
            scale=_as_tuple(lists["crop_scales"][group]),
            **{name: values[group] for name, values in spread.items()},
        )
        for group in range(num_groups)
    )


_LIST_NAMES = {"ratio": "crop_ratios"}
_VALUE_LENGTHS = {
    "crop_ratios": 2,
    "jitter": 4,
    "blur_radius": 2,
    "solarize_threshold": 2,
}


def _one_per_group(name: str, value: Any, num_groups: int) -> list[Any]:
    """Spread one value over the groups, or check that there is one per group."""
    is_vector = name in _VALUE_LENGTHS
    if not is_vector and not _is_sequence(value):
        return [value] * num_groups
    if not _is_sequence(value):
        raise ValueError(
            f"{name} is {value!r}; wanted {_VALUE_LENGTHS[name]} numbers, or a list of "
            "such with one entry per crop group."
        )
    if is_vector and not any(_is_sequence(entry) for entry in value):
        return [_as_tuple(value)] * num_groups
    if len(value) != num_groups:
        raise ValueError(
            f"{name} has {len(value)} entries for {num_groups} crop groups; give one "
            "value for all groups or one entry per group."
        )
    return [_as_tuple(entry) for entry in value]


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _as_list(name: str, value: Any) -> list[Any]:
    if not _is_sequence(value):
        raise ValueError(
            f"{name} is {value!r}; wanted a list with one entry per crop group, for "
            f"example [{value!r}]."
        )
    return list(value)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if _is_sequence(value) else value


def _as_pair(value: Any) -> Any:
    """A number is a range of itself."""
    return value if _is_sequence(value) else (value, value)


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    return is_real and not math.isnan(value)


def _check_whole(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"{name} holds {value!r}; wanted a whole number of at least 1. Remove the "
            "group if it is not needed."
        )


def _check_number(name: str, value: Any, low: float, high: float) -> None:
    if not _is_number(value) or not low <= value <= high:
        raise ValueError(
            f"{name} is {value!r}; wanted a number from {low:g} to {high:g}, or a list "
            "of such with one entry per crop group."
        )


def _check_range(
    name: str, value: Any, low: float, high: float, *, open_below: bool = False
) -> None:
    is_pair = isinstance(value, tuple) and len(value) == 2
    if is_pair and all(_is_number(bound) and math.isfinite(bound) for bound in value):
        above = value[0] > low if open_below else value[0] >= low
        if above and value[0] <= value[1] <= high:
            return
    bracket = "(" if open_below else "["
    raise ValueError(
        f"{name} holds {value!r}; wanted a pair (smallest, largest) within {bracket}"
        f"{low:g}, {high:g}], the smaller first."
    )


def _check_jitter(jitter: Any) -> None:
    is_four = isinstance(jitter, tuple) and len(jitter) == 4
    if is_four and all(_is_number(strength) for strength in jitter):
        finite = all(0 <= strength < math.inf for strength in jitter)
        if finite and jitter[3] <= MAX_HUE:
            return
    raise ValueError(
        f"jitter is {jitter!r}; wanted four numbers (brightness, contrast, saturation, "
        f"hue), none negative and hue at most {MAX_HUE}. Use jitter_probability=0 to "
        "switch jitter off."
    )
