"""The five glyphs whose shape is the class of an embedded image.

Each is one closed polygon (n, 2), x right and y down, with its centre of gravity at the
origin and an area of 1, so that neither place nor amount of ink tells two apart.
"""

from __future__ import annotations

import math

import numpy as np

Polygon = np.ndarray


def _disk() -> Polygon:
    angles = 2 * math.pi * np.arange(24) / 24
    return np.stack([np.sin(angles), -np.cos(angles)], axis=1)


def _ring(inner: float) -> Polygon:
    """A disk with a round hole, as one outline with a seam of no width."""
    outer = _disk()
    hole = inner * outer[::-1]
    return np.concatenate([outer, outer[:1], hole[-1:], hole])


def _box(width: float, height: float) -> Polygon:
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    return np.array(corners) * [width / 2, height / 2]


def _plus(arm: float) -> Polygon:
    """An upright cross with arms ``arm`` wide and 2 long."""
    a = arm / 2
    quarter = np.array([(-a, -1), (a, -1), (a, -a)])
    turn = np.array([(0, 1), (-1, 0)])
    quarters = [quarter]
    for _ in range(3):
        quarters.append(quarters[-1] @ turn)
    return np.concatenate(quarters)


def _normalised(polygon: Polygon) -> Polygon:
    """Move the centre of gravity to the origin and scale the area to 1."""
    following = np.roll(polygon, -1, axis=0)
    cross = polygon[:, 0] * following[:, 1] - following[:, 0] * polygon[:, 1]
    area = cross.sum() / 2
    centre = ((polygon + following) * cross[:, None]).sum(axis=0) / (6 * area)
    return (polygon - centre) / math.sqrt(abs(area))


GLYPHS: dict[str, Polygon] = {
    name: _normalised(polygon)
    for name, polygon in {
        "disk": _disk(),
        "flat_bar": _box(2.25, 1.0),
        "plus": _plus(0.3),
        "ring": _ring(0.62),
        "tall_bar": _box(1.0, 2.25),
    }.items()
}
